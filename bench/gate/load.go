package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// load is what one measurement saw.
type load struct {
	rate            float64 // requests a second
	requests        int
	p50, p99, first time.Duration
	cpu             time.Duration // of what was measured; the caller's to fill in
}

// drive keeps clients busy with one request each on a kept-alive connection. It
// writes prepared bytes and reads as little as tells an answer's end, for what
// the load costs is taken from what is measured.
//
// With a rate above 0 so many are sent in a second and no more, each at its time:
// the latency is then counted from when it was due, whatever held it up.
func drive(ctx context.Context, addr, request string, w work, d time.Duration, rate float64) (load, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var wg sync.WaitGroup
	took := make([][]time.Duration, w.clients)
	firsts := make([][]time.Duration, w.clients)
	errs := make([]error, w.clients)
	began := time.Now()
	for i := range w.clients {
		var next pace
		if rate > 0 {
			each := time.Duration(float64(w.clients) / rate * float64(time.Second))
			next = pace{due: began.Add(each * time.Duration(i) / time.Duration(w.clients)), each: each}
		}
		wg.Go(func() { took[i], firsts[i], errs[i] = client(ctx, addr, request, next) })
	}
	wg.Wait()
	elapsed := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return load{}, err
	}
	all, first := slices.Concat(took...), slices.Concat(firsts...)
	if len(all) == 0 {
		return load{}, errors.New("not one answer")
	}
	slices.Sort(all)
	slices.Sort(first)
	return load{
		rate: float64(len(all)) / elapsed.Seconds(), requests: len(all),
		p50: all[len(all)/2], p99: all[len(all)*99/100], first: first[len(first)/2],
	}, nil
}

// pace says when the next request is due; the zero pace is at once.
type pace struct {
	due  time.Time
	each time.Duration
}

// wait waits until the next request is due, and says when that was.
func (p *pace) wait(ctx context.Context) time.Time {
	if p.each == 0 {
		return time.Now()
	}
	due := p.due
	p.due = due.Add(p.each)
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return due
}

// once sends one request and returns the status of its answer.
func once(addr, request string) (status int, err error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte(request)); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %s, %.200s", resp.Status, body)
	}
	return resp.StatusCode, err
}

func client(ctx context.Context, addr, request string, next pace) (took, firsts []time.Duration, err error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 16<<10)
	out := []byte(request)
	for {
		sent := next.wait(ctx)
		if ctx.Err() != nil {
			return took, firsts, nil
		}
		_ = conn.SetDeadline(sent.Add(10 * time.Second))
		if _, err := conn.Write(out); err != nil {
			return nil, nil, err
		}
		first, again, body, err := readAnswer(r)
		if err == nil && body == 0 {
			err = errors.New("an empty answer, which is not the upstream's")
		}
		if err != nil {
			return nil, nil, err
		}
		took = append(took, time.Since(sent))
		firsts = append(firsts, first.Sub(sent))
		if !again {
			if conn.Close() != nil {
				return nil, nil, err
			}
			if conn, err = net.Dial("tcp", addr); err != nil {
				return nil, nil, err
			}
			r.Reset(conn)
		}
	}
}

// readAnswer reads one answer and says when its first byte of body came, and
// whether the connection can go on.
func readAnswer(r *bufio.Reader) (first time.Time, again bool, body int, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return first, false, 0, err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
		rest, _ := r.Peek(min(r.Buffered(), 600))
		return first, false, 0, fmt.Errorf("answered %q %q", line, rest)
	}
	length, chunked, again := -1, false, true
	for {
		line, err = r.ReadSlice('\n')
		if err != nil {
			return first, false, 0, err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, _ = strconv.Atoi(string(value))
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("Connection")):
			again = !bytes.EqualFold(value, []byte("close"))
		}
	}
	if !chunked {
		if length < 0 {
			return first, false, 0, errors.New("an answer without an end")
		}
		_, err = r.Discard(length)
		return time.Now(), again, length, err
	}
	for {
		line, err = r.ReadSlice('\n')
		if err != nil {
			return first, false, 0, err
		}
		if first.IsZero() {
			first = time.Now()
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return first, false, 0, err
		}
		body += int(n)
		if _, err := r.Discard(int(n) + 2); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return first, false, 0, err
		}
		if n == 0 {
			return first, again, body, nil
		}
	}
}
