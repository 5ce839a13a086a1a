// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"polyad.dev/polyad"
)

const mostBytes = 16 << 20 // of a request's body

// refusal is an error of the request itself.
type refusal struct {
	status  int
	message string
}

func (r *refusal) Error() string { return r.message }

// api is the service's addresses.
type api struct {
	skills  *skills
	metrics *metrics
	ready   atomic.Bool // false while the service starts or stops
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	add := func(path string, handle func(http.ResponseWriter, *http.Request, []string) error) {
		counted := a.metrics.counted(path, func(w http.ResponseWriter, r *http.Request) {
			rest := strings.Trim(strings.TrimPrefix(r.URL.Path, path), "/")
			var parts []string
			if rest != "" {
				parts = strings.Split(rest, "/")
			}
			if err := handle(w, r, parts); err != nil {
				refuse(w, err)
			}
		})
		mux.Handle(path, counted)
		mux.Handle(path+"/", counted)
	}
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !a.ready.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("/metrics", a.metrics.handler())
	add("/tasks", a.tasks)
	add("/stats", a.stats)
	add("/answer", a.answer)
	add("/training", a.training)
	add("/versions", a.versions)
	return mux
}

func (a *api) tasks(w http.ResponseWriter, r *http.Request, _ []string) error {
	if err := only(w, r, http.MethodGet); err != nil {
		return err
	}
	version, tasks := a.skills.current()
	return send(w, http.StatusOK, map[string]any{"published": version, "tasks": append([]string{}, tasks...)})
}

func (a *api) stats(w http.ResponseWriter, r *http.Request, _ []string) error {
	if err := only(w, r, http.MethodGet); err != nil {
		return err
	}
	stats, err := a.skills.engine.Stats()
	if err != nil {
		return err
	}
	return send(w, http.StatusOK, map[string]any{"engine": stats})
}

// answerRequest is the body of POST /answer.
type answerRequest struct {
	Task        string  `json:"task"`
	Prompt      *string `json:"prompt"`
	MaxTokens   int     `json:"max_tokens"`
	Temperature float32 `json:"temperature"`
	Stream      bool    `json:"stream"`
	TimeoutMS   int     `json:"timeout_ms"`
}

// answer gives one JSON object, or with "stream" a line per piece. A client that goes away ends the request's context, and that cancels.
func (a *api) answer(w http.ResponseWriter, r *http.Request, _ []string) error {
	if err := only(w, r, http.MethodPost); err != nil {
		return err
	}
	bytes, err := body(w, r)
	if err != nil {
		return err
	}
	var asked answerRequest
	if err := json.Unmarshal(bytes, &asked); err != nil {
		return &refusal{http.StatusBadRequest, err.Error()}
	}
	if asked.Prompt == nil {
		return &refusal{http.StatusBadRequest, "prompt is missing"}
	}
	request := polyad.Request{Task: asked.Task, Prompt: *asked.Prompt, MaxTokens: asked.MaxTokens, Temperature: asked.Temperature,
		Timeout: time.Duration(asked.TimeoutMS) * time.Millisecond}
	if version, _ := a.skills.current(); version > 0 {
		request.Skillset = publishedName
	}
	answer, err := a.skills.engine.Submit(r.Context(), request)
	if err != nil {
		return err
	}
	defer answer.Close()
	if !asked.Stream {
		result, err := answer.Result()
		if err != nil {
			return err
		}
		a.metrics.answered(result)
		return send(w, http.StatusOK, endOf(result))
	}
	line := lines(w)
	for piece := range answer.Pieces(r.Context()) {
		line(map[string]string{"piece": piece})
	}
	result, err := answer.Result()
	if err != nil { // too late for a status
		line(map[string]string{"error": codeOf(err).String(), "message": err.Error()})
		return nil
	}
	a.metrics.answered(result)
	line(endOf(result))
	return nil
}

func endOf(result polyad.Result) map[string]any {
	return map[string]any{"text": result.Text, "tokens": len(result.Tokens), "finish_reason": result.FinishReason, "seconds": result.Seconds}
}

// training: POST /training?steps=..&learning_rate=.. with JSON Lines starts a run; GET lists runs; GET /training/N says how run N stands,
// with ?follow=1 a line per step; DELETE /training/N stops it.
func (a *api) training(w http.ResponseWriter, r *http.Request, path []string) error {
	if len(path) == 0 {
		if err := only(w, r, http.MethodGet, http.MethodPost); err != nil {
			return err
		}
		if r.Method == http.MethodGet {
			all := []runStatus{}
			for _, run := range a.skills.allRuns() {
				all = append(all, run.status())
			}
			return send(w, http.StatusOK, all)
		}
		steps, err := numberOf(r, "steps", "100", strconv.Atoi)
		if err != nil {
			return err
		}
		rate, err := numberOf(r, "learning_rate", "2e-3", func(text string) (float64, error) { return strconv.ParseFloat(text, 64) })
		if err != nil {
			return err
		}
		rows, err := body(w, r)
		if err != nil {
			return err
		}
		run, err := a.skills.train(rows, steps, rate)
		if err != nil {
			return err
		}
		if run == nil {
			return &refusal{http.StatusConflict, "a training is running; one at a time"}
		}
		return send(w, http.StatusAccepted, run.status())
	}
	if err := only(w, r, http.MethodGet, http.MethodDelete); err != nil {
		return err
	}
	number, err := strconv.Atoi(path[0])
	run := a.skills.run(number)
	if err != nil || run == nil || len(path) > 1 {
		return &refusal{http.StatusNotFound, "no training " + strings.Join(path, "/")}
	}
	if r.Method == http.MethodDelete {
		run.cancel()
	}
	if r.URL.Query().Get("follow") == "" {
		return send(w, http.StatusOK, run.status())
	}
	line := lines(w)
	for seen := int64(0); ; {
		now := run.next(r.Context(), seen)
		line(now)
		if seen = now.Step; now.State != stateRunning || r.Context().Err() != nil {
			return nil
		}
	}
}

// versions: GET lists them; POST /versions/N/publish makes requests from now on get version N.
func (a *api) versions(w http.ResponseWriter, r *http.Request, path []string) error {
	switch {
	case len(path) == 2 && path[1] == "publish":
		if err := only(w, r, http.MethodPost); err != nil {
			return err
		}
		version, err := strconv.Atoi(path[0])
		if err != nil {
			return &refusal{http.StatusBadRequest, "a version is a number"}
		}
		if err := a.skills.publish(version); err != nil {
			return err
		}
		a.metrics.publications.Inc()
	case len(path) == 0:
		if err := only(w, r, http.MethodGet); err != nil {
			return err
		}
	default:
		return &refusal{http.StatusNotFound, "no such address"}
	}
	found, err := a.skills.versions()
	if err != nil {
		return err
	}
	version, _ := a.skills.current()
	return send(w, http.StatusOK, map[string]any{"published": version, "versions": found})
}

func numberOf[T any](r *http.Request, name, otherwise string, parse func(string) (T, error)) (T, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		text = otherwise
	}
	value, err := parse(text)
	if err != nil {
		return value, &refusal{http.StatusBadRequest, name + ": " + err.Error()}
	}
	return value, nil
}

func only(w http.ResponseWriter, r *http.Request, methods ...string) error {
	for _, method := range methods {
		if r.Method == method {
			return nil
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return &refusal{http.StatusMethodNotAllowed, r.Method + " is not for this address"}
}

func body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	bytes, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostBytes))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &refusal{http.StatusRequestEntityTooLarge, err.Error()}
	}
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, err.Error()}
	}
	return bytes, nil
}

func send(w http.ResponseWriter, status int, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // whoever went away does not need it
	return nil
}

// lines begins an answer of one JSON value per line, each sent at once.
func lines(w http.ResponseWriter) func(any) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return func(value any) {
		text, err := json.Marshal(value)
		if err != nil {
			log.Print(err)
			return
		}
		_, _ = w.Write(append(text, '\n'))
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
	}
}

func codeOf(err error) polyad.Code {
	var failed *polyad.Error
	if errors.As(err, &failed) {
		return failed.Code
	}
	if errors.Is(err, polyad.ErrClosed) {
		return polyad.Cancelled
	}
	return polyad.Internal
}

// refuse turns an error into a status: the client's fault, not now, or ours.
func refuse(w http.ResponseWriter, err error) {
	var own *refusal
	if errors.As(err, &own) {
		_ = send(w, own.status, map[string]string{"error": "request", "message": own.message})
		return
	}
	status := http.StatusInternalServerError
	switch codeOf(err) {
	case polyad.NotFound, polyad.UnknownTask:
		status = http.StatusNotFound
	case polyad.InvalidArgument, polyad.InvalidConfig, polyad.BadData, polyad.ContextOverflow:
		status = http.StatusBadRequest
	case polyad.WrongState:
		status = http.StatusConflict
	case polyad.QueueFull, polyad.Cancelled, polyad.OutOfMemory:
		status = http.StatusServiceUnavailable
	default:
		log.Print(err)
	}
	_ = send(w, status, map[string]string{"error": codeOf(err).String(), "message": err.Error()})
}
