// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"polyad.dev/polyad"
)

// published is what requests name; publishing under it again replaces the version new requests get.
const publishedName = "skills"

// skills is the model, the engine over it, and the versions of the skills: each a bundle in the data folder, one of them published.
// Training makes a new version from the published one; publishing is a separate step, so that somebody can look at it first, and go back.
type skills struct {
	model  *polyad.Backbone
	engine *polyad.Engine
	folder string

	mu        sync.Mutex // publishing, and the start of a training
	published int        // 0: none yet
	tasks     []string
	runs      map[int]*trainingRun
}

func openSkills(modelFile, folder string, threads int) (*skills, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	runtime, err := polyad.NewRuntime(polyad.RuntimeOptions{Threads: threads})
	if err != nil {
		return nil, err
	}
	defer runtime.Close()
	model, err := polyad.OpenBackbone(modelFile, &polyad.BackboneOptions{Runtime: runtime})
	if err != nil {
		return nil, err
	}
	engine, err := polyad.NewEngine(model, nil)
	if err != nil {
		return nil, err
	}
	s := &skills{model: model, engine: engine, folder: folder, runs: map[int]*trainingRun{}}
	found, err := s.versions()
	if err == nil && len(found) > 0 {
		err = s.publish(found[len(found)-1])
	}
	return s, err
}

// take copies a bundle in as the next version and publishes it.
func (s *skills) take(bundle string) error {
	next, err := s.nextVersion()
	if err != nil {
		return err
	}
	bytes, err := os.ReadFile(bundle)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file(next), bytes, 0o644); err != nil {
		return err
	}
	return s.publish(next)
}

func (s *skills) file(version int) string {
	return filepath.Join(s.folder, fmt.Sprintf("version-%d.polyad", version))
}

// versions lists what there is, oldest first.
func (s *skills) versions() ([]int, error) {
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return nil, err
	}
	found := []int{}
	for _, entry := range entries {
		var version int
		if n, _ := fmt.Sscanf(entry.Name(), "version-%d.polyad", &version); n == 1 && s.file(version) == filepath.Join(s.folder, entry.Name()) {
			found = append(found, version)
		}
	}
	sort.Ints(found)
	return found, nil
}

func (s *skills) nextVersion() (int, error) {
	found, err := s.versions()
	if err != nil || len(found) == 0 {
		return 1, err
	}
	return found[len(found)-1] + 1, nil
}

func (s *skills) current() (version int, tasks []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.published, s.tasks
}

// publish makes requests from now on get a version. Answers being made go on with what they began with; none waits or is lost.
func (s *skills) publish(version int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	loaded, err := polyad.LoadSkillset(s.model, s.file(version))
	if err != nil {
		return err
	}
	defer loaded.Close() // what is published is a snapshot
	tasks, err := loaded.TaskNames()
	if err != nil {
		return err
	}
	if err := s.engine.Publish(publishedName, loaded); err != nil {
		return err
	}
	s.published, s.tasks = version, tasks
	return nil
}

// train trains a copy of the published skills on JSON Lines; nil while another training runs.
func (s *skills) train(lines []byte, steps int, learningRate float64) (*trainingRun, error) {
	none := 0.0
	rows, err := polyad.OpenDatasetBytes(lines, &polyad.DatasetOptions{ValidationFraction: &none, TestFraction: &none})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, run := range s.runs {
		if run.status().State == stateRunning {
			rows.Close()
			return nil, nil
		}
	}
	base, err := s.base(rows)
	if err != nil {
		rows.Close()
		return nil, err
	}
	version, err := s.nextVersion()
	if err == nil {
		var run *trainingRun
		if run, err = startTraining(version, base, rows, s.file(version), steps, learningRate); err == nil {
			s.runs[version] = run
			return run, nil
		}
	}
	base.Close()
	rows.Close()
	return nil, err
}

// base is a copy of what is published, with a row for every task that is new: it starts from the even mix of the skills.
func (s *skills) base(rows *polyad.Dataset) (*polyad.Skillset, error) {
	if s.published == 0 {
		return polyad.NewSkillset(s.model, rows, polyad.Config{"method": "cpoly", "rank": 8, "common_skills": 3,
			"prompt": polyad.Config{"max_answer_tokens": 64}})
	}
	loaded, err := polyad.LoadSkillset(s.model, s.file(s.published))
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, task := range s.tasks {
		known[task] = true
	}
	tasks, err := rows.Tasks()
	for _, task := range tasks {
		if err == nil && !known[task.Name] {
			err = loaded.AddTask(rows, task.Name, "uniform")
		}
	}
	if err != nil {
		loaded.Close()
		return nil, err
	}
	return loaded, nil
}

func (s *skills) run(version int) *trainingRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs[version]
}

func (s *skills) allRuns() []*trainingRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*trainingRun, 0, len(s.runs))
	for _, run := range s.runs {
		all = append(all, run)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].version < all[j].version })
	return all
}

// stop ends trainings, then the engine; answers still being made end as cancelled.
func (s *skills) stop(ctx context.Context) {
	for _, run := range s.allRuns() {
		run.cancel()
		select {
		case <-run.over:
		case <-ctx.Done():
		}
	}
	s.engine.Close()
	s.model.Close()
}
