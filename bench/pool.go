package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// runPool is the scanner that anybody would write first: goroutines around an
// http.Client. It writes what it found out, host by host, to standard output.
func runPool(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("pool takes a file of hosts, an output and a number of workers")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	workers, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	client := &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{MaxIdleConns: 2 * workers, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	hosts := make(chan string)
	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for host := range hosts {
				line := identify(client, host)
				mu.Lock()
				fmt.Fprintln(out, host, line)
				mu.Unlock()
			}
		})
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		hosts <- lines.Text()
	}
	close(hosts)
	wg.Wait()
	if err := out.Flush(); err != nil {
		return err
	}
	return lines.Err()
}

func identify(client *http.Client, host string) string {
	var version struct {
		Version string `json:"version"`
	}
	var tags, ps struct {
		Models []struct {
			Name   string `json:"name"`
			Digest string `json:"digest"`
			Size   int64  `json:"size"`
		} `json:"models"`
	}
	status := 0
	for path, to := range map[string]any{"/": nil, "/api/version": &version, "/api/tags": &tags, "/api/ps": &ps} {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+host+path, nil)
		if err != nil {
			return ""
		}
		resp, err := client.Do(r)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if err != nil {
			continue
		}
		status = resp.StatusCode
		if to != nil {
			_ = json.Unmarshal(body, to) // what is no JSON is no Ollama
		}
	}
	if status == 0 {
		return ""
	}
	return fmt.Sprint(status, " ", version.Version, " ", len(tags.Models), " ", len(ps.Models))
}
