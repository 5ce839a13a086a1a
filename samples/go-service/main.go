// SPDX-License-Identifier: Apache-2.0

// Command go-service answers with skills over HTTP, trains new ones on posted examples in the background, and publishes them without a
// restart. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	model := flag.String("model", "", "GGUF file or Hugging Face folder of the backbone")
	data := flag.String("data", "service-data", "folder of the versions")
	bundle := flag.String("bundle", "", "bundle to take in and publish at the start")
	address := flag.String("listen", "127.0.0.1:8080", "address; port 0 takes a free one")
	threads := flag.Int("threads", (runtime.NumCPU()+1)/2, "worker threads of the engine, and as many of a training")
	grace := flag.Duration("grace", 20*time.Second, "how long answers may still take after SIGTERM")
	flag.Parse()
	if *model == "" || flag.NArg() > 0 {
		flag.Usage()
		log.Fatal("--model is needed, and nothing but options")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *model, *data, *bundle, *address, *threads, *grace); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, model, data, bundle, address string, threads int, grace time.Duration) error {
	skills, err := openSkills(model, data, threads)
	if err != nil {
		return err
	}
	if bundle != "" {
		if err := skills.take(bundle); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	api := &api{skills: skills, metrics: newMetrics(skills.engine)}
	server := &http.Server{Handler: api.handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	api.ready.Store(true)
	fmt.Printf("listening on http://%s\n", listener.Addr())

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// No new requests; those being answered end; trainings are cancelled; then the engine closes.
	api.ready.Store(false)
	ending, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	for _, run := range skills.allRuns() {
		run.cancel()
	}
	err = server.Shutdown(ending)
	skills.stop(ending)
	if errors.Is(err, context.DeadlineExceeded) {
		return server.Close()
	}
	return err
}
