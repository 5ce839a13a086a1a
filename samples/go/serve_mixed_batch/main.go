// SPDX-License-Identifier: Apache-2.0

// Command serve_mixed_batch serves one batch in which every request names its own task, one brings its own skill weights, and one wants
// the backbone alone; it prints each answer piece by piece as it comes.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"polyad.dev/polyad"
)

func run(model, bundle, prompt string, tasks []string) error {
	backbone, err := polyad.OpenBackbone(model, nil)
	if err != nil {
		return err
	}
	defer backbone.Close()
	skills, err := polyad.LoadSkillset(backbone, bundle)
	if err != nil {
		return err
	}
	defer skills.Close()
	weights, err := skills.TaskWeights(tasks[0])
	if err != nil {
		return err
	}
	engine, err := polyad.NewEngine(backbone, nil)
	if err != nil {
		return err
	}
	defer engine.Close()
	if err := engine.Publish("skills", skills); err != nil {
		return err
	}

	var requests []polyad.Request
	for _, task := range tasks {
		requests = append(requests, polyad.Request{Skillset: "skills", Task: task, Prompt: prompt, MaxTokens: 16})
	}
	last := tasks[len(tasks)-1] // the last task's prompt with the first task's weights
	requests = append(requests, polyad.Request{Skillset: "skills", Task: last, Weights: weights, Prompt: prompt, MaxTokens: 16},
		polyad.Request{Prompt: prompt, MaxTokens: 16})

	ctx := context.Background()
	var readers sync.WaitGroup
	for i, request := range requests {
		answer, err := engine.Submit(ctx, request)
		if err != nil {
			return err
		}
		readers.Add(1)
		go func(i int) {
			defer readers.Done()
			for piece := range answer.Pieces(ctx) {
				fmt.Printf("%d: %q\n", i, piece)
			}
			result, err := answer.Result()
			fmt.Printf("%d: %+v %v\n", i, result, err)
		}(i)
	}
	readers.Wait()
	return nil
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: serve_mixed_batch MODEL.gguf BUNDLE.polyad PROMPT TASK...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
