package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// load is what one measurement saw.
type load struct {
	rate            float64 // requests a second
	p50, p99, first time.Duration
}

// drive keeps clients busy with one request each on a kept-alive connection. It
// writes prepared bytes and reads as little as tells an answer's end, for what
// the load costs is taken from what is measured.
func drive(ctx context.Context, addr, request string, w work, d time.Duration) (load, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var wg sync.WaitGroup
	took := make([][]time.Duration, w.clients)
	firsts := make([][]time.Duration, w.clients)
	errs := make([]error, w.clients)
	began := time.Now()
	for i := range w.clients {
		wg.Go(func() { took[i], firsts[i], errs[i] = client(ctx, addr, request) })
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
		rate: float64(len(all)) / elapsed.Seconds(),
		p50:  all[len(all)/2], p99: all[len(all)*99/100], first: first[len(first)/2],
	}, nil
}

func client(ctx context.Context, addr, request string) (took, firsts []time.Duration, err error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 16<<10)
	out := []byte(request)
	for ctx.Err() == nil {
		sent := time.Now()
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
	return took, firsts, nil
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
