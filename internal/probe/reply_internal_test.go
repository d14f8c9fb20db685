package probe

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse/internal/evidence"
)

func read(text, method string, limit int64) (evidence.Exchange, bool, error) {
	r := newReader()
	r.br.Reset(strings.NewReader(text))
	x := evidence.Exchange{Method: method}
	keep, err := r.read(&x, limit)
	return x, keep, err
}

func TestReply(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text, body string
		keep       bool
		wrong      string
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", true, ""},
		{"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "hello", true, ""},
		{"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "", true, ""},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "hello", true, ""},
		{"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 5\r\n\r\nhello", "hello", false, ""},
		{"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", false, ""},
		{"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello", "hello", true, ""},
		{"HTTP/1.1 200 OK\r\n\r\nto the end", "to the end", false, ""},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", true, ""},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello", true, ""},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n", "hello", true, ""},
		{"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + z.String(), "hello", false, ""},
		{"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", true, ""},

		{"SSH-2.0-OpenSSH\r\n", "SSH-2.0-OpenSSH\r\n", false, "not an HTTP answer"},
		{"hello", "hello", false, "not an HTTP answer"},
		{"HTTP/2.0 200 OK\r\n\r\n", "", false, "protocol"},
		{"HTTP/1.1 20 OK\r\n\r\n", "", false, "status"},
		{"HTTP/1.1 abc OK\r\n\r\n", "", false, "status"},
		{"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n", "", false, "header line"},
		{"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "", false, "header line"},
		{"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", "", false, "header line"},
		{"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", "", false, "control byte"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "", false, "two content lengths"},
		{"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "", false, "content length"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", "", false, "content length"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "", false, "both"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "", false, "transfer encoding"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", "", false, "body"},
		{"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx", "x", false, "content encoding"},
		{"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "x", false, "body"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "hello", false, "body cut short: 5 of 10"},
		{"HTTP/1.1 200 OK\r\nA: b", "", false, "header cut short"},
		{"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 9000) + "\r\n\r\n", "", false, "header line longer"},
		{"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 200) + "\r\n", "", false, "header longer"},
		{strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 6), "", false, "interim"},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", "", false, "switched"},
	} {
		x, keep, err := read(c.text, "GET", 1000)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if (c.wrong == "") != (err == nil) || !strings.Contains(got, c.wrong) || string(x.Body) != c.body || err == nil && keep != c.keep {
			t.Errorf("%.60q: %q, keep %v, %q", c.text, x.Body, keep, got)
		}
	}
	if x, keep, err := read("HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n", "HEAD", 1000); err != nil || !keep || len(x.Body) > 0 {
		t.Errorf("HEAD: %v %v", keep, err)
	}
}

// TestCut holds each way to send too much to its bound.
func TestCut(t *testing.T) {
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 64 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 100_000)
	for name, text := range map[string]string{
		"length":     "HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n" + long,
		"to the end": "HTTP/1.1 200 OK\r\n\r\n" + long,
		"chunks":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("a\r\n0123456789\r\n", 10_000),
		"gzip":       "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + bomb.String(),
	} {
		limit := int64(1000)
		if name == "gzip" {
			limit = 100_000 // more than the bomb, less than what is in it
		}
		x, keep, err := read(text, "GET", limit)
		if err != nil || keep || !x.Cut || int64(len(x.Body)) != limit {
			t.Errorf("%s: %d bytes, cut %v, keep %v, %v", name, len(x.Body), x.Cut, keep, err)
		}
	}
}

// FuzzReply holds the reader against net/http's: what both take they read alike.
func FuzzReply(f *testing.F) {
	names, err := filepath.Glob("../ollama/testdata/0.17.4/*.http")
	if err != nil || len(names) == 0 {
		f.Fatal("no captured replies", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\n\r\n"))
	f.Add([]byte("HTTP/1.0 200 OK\nContent-Length: 1\n\nxHTTP/1.1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		const limit = 4096
		r := newReader()
		r.br.Reset(bytes.NewReader(text))
		x := evidence.Exchange{Method: "GET"}
		_, err := r.read(&x, limit)
		if len(x.Body) > limit || len(x.Header) > maxHeadLines {
			t.Fatalf("%d bytes and %d header lines", len(x.Body), len(x.Header))
		}
		if err != nil || x.Cut || x.Get("Content-Encoding") != "" {
			return
		}
		br := bufio.NewReader(bytes.NewReader(text))
		resp, err := http.ReadResponse(br, nil)
		for err == nil && resp.StatusCode < 200 {
			resp, err = http.ReadResponse(br, nil)
		}
		if err != nil {
			return
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if errors.Is(err, io.ErrUnexpectedEOF) || err != nil {
			return
		}
		if resp.StatusCode != x.Status || !bytes.Equal(body, x.Body) {
			t.Fatalf("status %d, body %q; net/http: %d, %q", x.Status, x.Body, resp.StatusCode, body)
		}
		for name, values := range resp.Header {
			n := 0
			for _, field := range x.Header {
				if http.CanonicalHeaderKey(field.Name) == name {
					if n < len(values) && field.Value != values[n] {
						t.Fatalf("%s: %q; net/http: %q", name, field.Value, values[n])
					}
					n++
				}
			}
			if n != len(values) && name != "Content-Length" {
				t.Fatalf("%s: %d values; net/http: %d", name, n, len(values))
			}
		}
	})
}
