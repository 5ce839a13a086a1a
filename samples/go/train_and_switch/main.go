// SPDX-License-Identifier: Apache-2.0

// Command train_and_switch trains skills for every task of a folder, saves one bundle, loads it again and lets one mixed batch answer.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"polyad.dev/polyad"
)

func train(ctx context.Context, model *polyad.Backbone, folder, bundle string) error {
	tasks, err := polyad.OpenDataset(folder, nil)
	if err != nil {
		return err
	}
	defer tasks.Close()
	skills, err := polyad.NewSkillset(model, tasks, polyad.Config{"method": "cpoly", "rank": 4, "common_skills": 3})
	if err != nil {
		return err
	}
	defer skills.Close()
	config := polyad.Config{"max_steps": 20, "batch_size": 8, "learning_rate": 2e-3}
	err = polyad.Train(ctx, skills, tasks, config, func(p polyad.Progress) {
		fmt.Printf("step %d/%d  loss %.3f  %.0f tokens/s\n", p.Step, p.TotalSteps, p.Loss, p.TokensPerSecond)
	})
	if err != nil {
		return err
	}
	return skills.Save(bundle)
}

func serve(ctx context.Context, model *polyad.Backbone, bundle string, asked []string) error {
	skills, err := polyad.LoadSkillset(model, bundle)
	if err != nil {
		return err
	}
	defer skills.Close()
	engine, err := polyad.NewEngine(model, nil)
	if err != nil {
		return err
	}
	defer engine.Close()
	if err := engine.Publish("words", skills); err != nil {
		return err
	}
	var answers []*polyad.Answer
	for i := 0; i+1 < len(asked); i += 2 {
		answer, err := engine.Submit(ctx, polyad.Request{Skillset: "words", Task: asked[i], Prompt: asked[i+1], MaxTokens: 16})
		if err != nil {
			return err
		}
		answers = append(answers, answer)
	}
	for i, answer := range answers {
		text, err := answer.Text()
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s -> %s\n", asked[2*i], asked[2*i+1], text)
	}
	return nil
}

func run(path, folder, bundle string, asked []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	model, err := polyad.OpenBackbone(path, nil)
	if err != nil {
		return err
	}
	defer model.Close()
	if err := train(ctx, model, folder, bundle); err != nil {
		return err
	}
	return serve(ctx, model, bundle, asked)
}

func main() {
	if len(os.Args) < 4 || len(os.Args)%2 == 1 {
		fmt.Fprintln(os.Stderr, "usage: train_and_switch MODEL.gguf TASKS_FOLDER BUNDLE.polyad [TASK PROMPT]...")
		os.Exit(2)
	}
	asked := os.Args[4:]
	if len(asked) == 0 {
		asked = []string{"antonym", "hot", "noun_plural", "child"}
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
