// SPDX-License-Identifier: Apache-2.0

// Package polyad trains, mixes, saves, reloads and switches many small skills of one frozen transformer, in this process.
//
//	model, err := polyad.OpenBackbone("smollm2-135m.gguf", nil)
//	tasks, err := polyad.OpenDataset("tasks/", nil)
//	skills, err := polyad.NewSkillset(model, tasks, polyad.Config{"method": "cpoly", "rank": 8, "common_skills": 3})
//	err = polyad.Train(ctx, skills, tasks, polyad.Config{"epochs": 3, "learning_rate": 1e-3}, nil)
//	err = skills.Save("words.polyad")
//
//	engine, err := polyad.NewEngine(model, nil)
//	err = engine.Publish("words", skills)
//	answer, err := engine.Submit(ctx, polyad.Request{Skillset: "words", Task: "antonym", Prompt: "hot"})
//	text, err := answer.Text()
//
// Errors carry a code: errors.Is(err, polyad.ErrUnknownTask), or errors.As with *polyad.Error for message and detail. Nothing panics;
// a value used after Close gives ErrClosed, a nil one ErrInvalidArgument.
//
// Every value may be closed twice, in any order, and is freed when the garbage collector finds it first. Backbone, Dataset and Engine may be
// used by many goroutines at once; a Skillset's changing calls, a Trainer and an Evaluator allow one caller at a time (ErrWrongState
// otherwise, never a data race). Heavy work runs on the library's own threads: a goroutine that waits for it occupies one thread, as any call
// into C does.
//
// The shared library is loaded at the first use, by the rule of all bindings (Load tells it).
package polyad
