package ollamatest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"sync"
	"time"
)

// certificate is what a server that speaks TLS shows.
type certificate struct {
	names   []string
	expired bool
	mutual  bool   // asks the client for a certificate, and for one that it trusts
	max     uint16 // the latest version spoken; 0 for the latest there is
	plain   string // what it says to whoever speaks no TLS
}

// goPlain and nginxPlain are what servers say to plain HTTP on their TLS port.
const (
	goPlain    = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
	nginxPlain = "HTTP/1.1 400 Bad Request\r\nServer: nginx/1.24.0 (Ubuntu)\r\nContent-Type: text/html\r\n" +
		"Content-Length: 264\r\nConnection: close\r\n\r\n<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n" +
		"<body>\r\n<center><h1>400 Bad Request</h1></center>\r\n<center>The plain HTTP request was sent to HTTPS port</center>\r\n" +
		"<hr><center>nginx/1.24.0 (Ubuntu)</center>\r\n</body>\r\n</html>\r\n"
)

// signer is the key of all certificates: making one takes longer than a probe.
var signer = sync.OnceValues(func() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
})

// config makes the certificate. It is signed by itself, so no client trusts it.
func (c certificate) config() (*tls.Config, error) {
	key, err := signer()
	if err != nil {
		return nil, err
	}
	names := c.names
	if names == nil {
		names = []string{"ollama.example"}
	}
	t := time.Now()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(t.UnixNano()),
		Subject:      pkix.Name{CommonName: names[0], Organization: []string{"Nobody"}},
		DNSNames:     names,
		NotBefore:    t.AddDate(0, -2, 0),
		NotAfter:     t.AddDate(0, 1, 0),
	}
	if c.expired {
		leaf.NotAfter = t.AddDate(0, -1, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		MaxVersion:   c.max,
		NextProtos:   []string{"http/1.1"},
	}
	if c.mutual {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
		cfg.ClientCAs = x509.NewCertPool()
	}
	return cfg, nil
}

// serveTLS does the handshake and serves what is inside, or says to a client
// that speaks plain HTTP that it is in the wrong place.
func (s *Server) serveTLS(c net.Conn, cfg *tls.Config) {
	b := bufio.NewReaderSize(c, 1024)
	first, err := b.Peek(1)
	if err != nil {
		return
	}
	if first[0] != 0x16 { // a handshake record, RFC 8446, section 5.1
		if _, err := b.ReadSlice('\n'); err == nil && s.tls.plain != "" {
			_, _ = c.Write([]byte(s.tls.plain)) // a client gone is no matter
		}
		return
	}
	t := tls.Server(peeked{c, b}, cfg)
	if t.Handshake() == nil {
		s.serve(t)
	}
	_ = t.Close()
}

// peeked is a connection of which some bytes are read already.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }
