// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"polyad.dev/polyad"
)

// metrics is what Prometheus reads: requests, answers, and the engine's own figures at the moment of reading.
type metrics struct {
	registry     *prometheus.Registry
	requests     *prometheus.CounterVec
	seconds      *prometheus.HistogramVec
	tokens       prometheus.Counter
	answers      *prometheus.CounterVec
	publications prometheus.Counter
}

func newMetrics(engine *polyad.Engine) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "polyad_http_requests_total", Help: "Requests by address and status."},
			[]string{"path", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "polyad_http_request_seconds", Help: "Time to the end of a request.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 14)}, []string{"path"}),
		tokens:       prometheus.NewCounter(prometheus.CounterOpts{Name: "polyad_answer_tokens_total", Help: "Tokens of finished answers."}),
		answers:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "polyad_answers_total", Help: "Finished answers by how they ended."}, []string{"finish_reason"}),
		publications: prometheus.NewCounter(prometheus.CounterOpts{Name: "polyad_publications_total", Help: "Versions published."}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.tokens, m.answers, m.publications, &engineCollector{engine},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) answered(result polyad.Result) {
	m.tokens.Add(float64(len(result.Tokens)))
	m.answers.WithLabelValues(result.FinishReason).Inc()
}

// counted wraps a handler with the two measures every address has.
func (m *metrics) counted(path string, handle http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		handle(recorder, r)
		m.requests.WithLabelValues(path, strconv.Itoa(recorder.status)).Inc()
		m.seconds.WithLabelValues(path).Observe(time.Since(begun).Seconds())
	})
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusRecorder) Flush() {
	if flusher, ok := s.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
}

// engineCollector asks the engine when it is read.
type engineCollector struct{ engine *polyad.Engine }

var engineGauges = map[string]*prometheus.Desc{}

func init() {
	for name, help := range map[string]string{"waiting": "Requests in the queue.", "running": "Requests being answered.",
		"tokens_per_second": "Recent speed of answering."} {
		engineGauges[name] = prometheus.NewDesc("polyad_engine_"+name, help, nil, nil)
	}
}

// Describe and Collect make it a prometheus.Collector.
func (c *engineCollector) Describe(descriptions chan<- *prometheus.Desc) {
	for _, gauge := range engineGauges {
		descriptions <- gauge
	}
}

// Collect reads the engine's figures; an engine that was closed has none.
func (c *engineCollector) Collect(values chan<- prometheus.Metric) {
	text, err := c.engine.Stats()
	if err != nil {
		return
	}
	var stats map[string]json.RawMessage
	if json.Unmarshal(text, &stats) != nil {
		return
	}
	for name, gauge := range engineGauges {
		var value float64
		if json.Unmarshal(stats[name], &value) == nil {
			values <- prometheus.MustNewConstMetric(gauge, prometheus.GaugeValue, value)
		}
	}
}
