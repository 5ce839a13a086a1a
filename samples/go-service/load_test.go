// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The service under load is a process of its own: the test program, started again.
func TestMain(m *testing.M) {
	if os.Getenv("POLYAD_TEST_SERVICE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func setting(name string, otherwise int) int {
	if value, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return value
	}
	return otherwise
}

type question struct{ task, prompt string }

// service is the process and its address.
type service struct {
	t       *testing.T
	url     string
	command *exec.Cmd
	mu      sync.Mutex
	wrong   []string
}

func (s *service) note(format string, values ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) < 20 {
		s.wrong = append(s.wrong, fmt.Sprintf(format, values...))
	}
}

func start(t *testing.T, model string) *service {
	command := exec.Command(os.Args[0], "--model", model, "--data", t.TempDir(), "--listen", "127.0.0.1:0")
	command.Env = append(os.Environ(), "POLYAD_TEST_SERVICE=1")
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the service did not start: ", err)
	}
	return &service{t: t, command: command, url: strings.TrimSpace(strings.TrimPrefix(line, "listening on "))}
}

// call expects a status and reads the body as JSON into value (which may be nil).
func (s *service) call(method, path, body string, status int, value any) error {
	request, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != status {
		return fmt.Errorf("%s %s: %d %s", method, path, response.StatusCode, text)
	}
	if value == nil {
		return nil
	}
	return json.Unmarshal(text, value)
}

func (s *service) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// train trains a version, following its progress line by line.
func (s *service) train(rows string, steps int) int {
	var started runStatus
	s.must(s.call("POST", fmt.Sprintf("/training?steps=%d&learning_rate=1e-2", steps), rows, http.StatusAccepted, &started))
	response, err := http.Get(fmt.Sprintf("%s/training/%d?follow=1", s.url, started.Version))
	s.must(err)
	defer response.Body.Close()
	now, scanner := started, bufio.NewScanner(response.Body)
	for scanner.Scan() {
		last := now.Step
		s.must(json.Unmarshal(scanner.Bytes(), &now))
		if now.Step < last {
			s.note("progress went back from %d to %d", last, now.Step)
		}
	}
	if now.State != stateDone || now.Step != int64(steps) {
		s.t.Fatalf("training ended as %+v", now)
	}
	return started.Version
}

// ask gives one answer, streamed or whole; ok is false where this client walks away in the middle.
func (s *service) ask(q question, stream, walkAway bool) (text string, ok bool, err error) {
	body, _ := json.Marshal(map[string]any{"task": q.task, "prompt": q.prompt, "max_tokens": 12, "stream": stream})
	var whole struct{ Text string }
	if !stream {
		err = s.call("POST", "/answer", string(body), http.StatusOK, &whole)
		return whole.Text, true, err
	}
	response, err := http.Post(s.url+"/answer", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", false, fmt.Errorf("status %d", response.StatusCode)
	}
	var pieces strings.Builder
	ended := false
	scanner := bufio.NewScanner(response.Body)
	for scanner.Scan() {
		var part struct {
			Piece, Text *string
			Error       string
		}
		if err := json.Unmarshal(scanner.Bytes(), &part); err != nil {
			return "", false, err
		}
		switch {
		case part.Piece != nil:
			pieces.WriteString(*part.Piece)
			if walkAway {
				return "", false, nil
			}
		case part.Text != nil:
			ended = true
			if *part.Text != pieces.String() {
				s.note("pieces %q of %q", pieces.String(), *part.Text)
			}
		default:
			return "", false, fmt.Errorf("an answer broke off: %s", scanner.Text())
		}
	}
	if !ended {
		return "", false, fmt.Errorf("an answer has no end")
	}
	return pieces.String(), true, nil
}

func (s *service) resident() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.command.Process.Pid))
	if err != nil {
		return 0
	}
	pages, _ := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

func rowsOf(answers map[string]string) string {
	var rows strings.Builder
	for _, task := range []string{"first", "second"} {
		for _, input := range []string{"a", "b", "c", "d"} {
			fmt.Fprintf(&rows, "{\"task\": %q, \"instruction\": \"Say it.\", \"input\": %q, \"output\": %q}\n", task, input, answers[task]+input)
		}
	}
	return rows.String()
}

func TestServiceUnderLoad(t *testing.T) {
	model := filepath.Join(os.Getenv("POLYAD_TEST_SHARED"), "fixtures", "gguf", "tiny_llama.gguf")
	if _, err := os.Stat(model); err != nil {
		t.Skipf("skipped: the shared fixtures are not here (%s)", model)
	}
	seconds, clients := setting("POLYAD_LOAD_SECONDS", 10), setting("POLYAD_LOAD_CLIENTS", 8)
	s := start(t, model)
	defer func() { _ = s.command.Process.Kill() }()
	s.must(s.call("GET", "/versions", "", http.StatusOK, nil))
	for _, refused := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/answer", "", 405}, {"POST", "/answer", "{", 400}, {"POST", "/answer", "{}", 400}, {"GET", "/training/99", "", 404},
		{"POST", "/versions/99/publish", "", 404}, {"POST", "/training?steps=x", "", 400}, {"POST", "/training", "no row", 400},
		{"POST", "/answer", `{"task": "none", "prompt": "a"}`, 400},
	} {
		if err := s.call(refused.method, refused.path, refused.body, refused.status, nil); err != nil {
			t.Error(err)
		}
	}

	versions := []int{s.train(rowsOf(map[string]string{"first": "up", "second": "down"}), 200)}
	s.must(s.call("POST", fmt.Sprintf("/versions/%d/publish", versions[0]), "", http.StatusOK, nil))
	versions = append(versions, s.train(rowsOf(map[string]string{"first": "left", "second": "right"}), 200))
	var questions []question
	for _, task := range []string{"first", "second"} {
		for _, input := range []string{"a", "b", "c", "d"} {
			questions = append(questions, question{task, input})
		}
	}
	expected := map[int]map[question]string{} // of each version, asked while nothing else runs
	for _, version := range versions {
		s.must(s.call("POST", fmt.Sprintf("/versions/%d/publish", version), "", http.StatusOK, nil))
		expected[version] = map[question]string{}
		for _, q := range questions {
			answer, _, err := s.ask(q, false, false)
			s.must(err)
			expected[version][q] = answer
		}
	}
	differ := 0
	for _, q := range questions {
		if expected[versions[0]][q] != expected[versions[1]][q] {
			differ++
		}
	}
	if differ == 0 {
		t.Fatal("the versions answer alike: nothing could be told from them")
	}

	var swaps, inForce, exact, during, walked, served atomic.Int64 // swaps is odd while a version is being published
	inForce.Store(int64(versions[1]))
	over := make(chan struct{})
	var group sync.WaitGroup
	var mu sync.Mutex
	var times []time.Duration
	for client := 0; client < clients; client++ {
		group.Add(1)
		go func(random *rand.Rand) {
			defer group.Done()
			for {
				select {
				case <-over:
					return
				default:
				}
				q := questions[random.Intn(len(questions))]
				stream := random.Intn(4) != 0
				before, version, begun := swaps.Load(), inForce.Load(), time.Now()
				answer, whole, err := s.ask(q, stream, stream && random.Intn(10) == 0)
				if err != nil {
					s.note("%v: %v", q, err)
					continue
				}
				if !whole {
					walked.Add(1)
					continue
				}
				served.Add(1)
				mu.Lock()
				times = append(times, time.Since(begun))
				mu.Unlock()
				if before%2 == 0 && swaps.Load() == before {
					exact.Add(1)
					if answer != expected[int(version)][q] {
						s.note("%v of version %d: %q for %q", q, version, answer, expected[int(version)][q])
					}
				} else if during.Add(1); answer != expected[versions[0]][q] && answer != expected[versions[1]][q] {
					s.note("%v: %q is no version's", q, answer)
				}
			}
		}(rand.New(rand.NewSource(int64(client))))
	}
	group.Add(1)
	go func() { // a training beside the traffic
		defer group.Done()
		var started runStatus
		if err := s.call("POST", "/training?steps=100000", rowsOf(map[string]string{"first": "x", "second": "y"}), http.StatusAccepted, &started); err != nil {
			s.note("%v", err)
			return
		}
		if err := s.call("POST", "/training", rowsOf(nil), http.StatusConflict, nil); err != nil {
			s.note("%v", err)
		}
		<-over
		if err := s.call("DELETE", fmt.Sprintf("/training/%d", started.Version), "", http.StatusOK, nil); err != nil {
			s.note("%v", err)
		}
	}()
	var early int64
	for end, i := time.Now().Add(time.Duration(seconds)*time.Second), 0; time.Now().Before(end); i++ {
		time.Sleep(time.Second)
		if i == 2 {
			early = s.resident()
		}
		version := versions[i%2]
		swaps.Add(1)
		if err := s.call("POST", fmt.Sprintf("/versions/%d/publish", version), "", http.StatusOK, nil); err != nil {
			s.note("%v", err)
		}
		inForce.Store(int64(version))
		swaps.Add(1)
	}
	close(over)
	group.Wait()
	late := s.resident()

	response, err := http.Get(s.url + "/metrics")
	s.must(err)
	exposition, err := io.ReadAll(response.Body)
	response.Body.Close()
	s.must(err)
	for _, name := range []string{`polyad_http_requests_total{path="/answer",status="200"}`, "polyad_engine_waiting 0", "polyad_answer_tokens_total"} {
		if !strings.Contains(string(exposition), name) {
			t.Errorf("%s is not among the metrics", name)
		}
	}
	s.must(s.command.Process.Signal(syscall.SIGTERM))
	if err := s.command.Wait(); err != nil {
		t.Errorf("the service ended with %v", err)
	}
	for _, text := range s.wrong {
		t.Error(text)
	}
	if exact.Load() == 0 || walked.Load() == 0 && served.Load() > 100 {
		t.Errorf("only %d answers could be compared, %d clients walked away", exact.Load(), walked.Load())
	}
	if early > 0 && late > early+64<<20 {
		t.Errorf("resident memory grew from %d to %d bytes", early, late)
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	if len(times) > 0 {
		t.Logf("%d clients, %d s: %d answers (%.0f/s), %d compared with the version in force, %d during a swap, %d clients walked away; median %v, "+
			"99%% %v; resident %d MiB early, %d MiB late", clients, seconds, served.Load(), float64(served.Load())/float64(seconds), exact.Load(),
			during.Load(), walked.Load(), times[len(times)/2].Round(time.Millisecond), times[len(times)*99/100].Round(time.Millisecond), early>>20, late>>20)
	}
}
