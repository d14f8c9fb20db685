//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	cryptotls "crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse/internal/ollama/realollama"
)

// selfSigned writes a certificate for 127.0.0.1 that is its own authority.
func selfSigned(t *testing.T, name, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// background runs a program until the test ends.
func background(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(args[0]), out.String())
		}
	})
	return cmd
}

// file writes a file of the test's own.
func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// presents waits until a server presents a certificate that ok likes.
func presents(t *testing.T, addr string, config *cryptotls.Config, ok func(*x509.Certificate) bool) {
	t.Helper()
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		conn, err := cryptotls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, config)
		if err == nil {
			cert := conn.ConnectionState().PeerCertificates[0]
			_ = conn.Close()
			if ok(cert) {
				return
			}
			err = fmt.Errorf("the certificate of %s from %s", cert.Subject, cert.NotBefore)
		}
		last = err
		select {
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	t.Fatalf("%s: %v", addr, last)
}

// TestACME has an ACME authority give the gate a certificate for its address,
// which it proves by http-01 to be its own.
func TestACME(t *testing.T) {
	dir := t.TempDir()
	directory, management, challenge, listen := free(t), free(t), free(t), free(t)
	_, port, err := net.SplitHostPort(challenge)
	if err != nil {
		t.Fatal(err)
	}
	pebbleCert, pebbleKey := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := x509.NewCertPool()
	pool.AddCert(selfSigned(t, "pebble", pebbleCert, pebbleKey))
	config := file(t, "pebble.json", fmt.Sprintf(`{"pebble": {
		"listenAddress": %q, "managementListenAddress": %q, "certificate": %q, "privateKey": %q, "httpPort": %s, "tlsPort": 1,
		"profiles": {"default": {"description": "", "validityPeriod": 7776000}, "shortlived": {"description": "", "validityPeriod": 518400}}}}`,
		directory, management, pebbleCert, pebbleKey, port))
	background(t, []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0"}, realollama.Pebble(t), "-config", config)
	presents(t, directory, &cryptotls.Config{RootCAs: pool}, func(*x509.Certificate) bool { return true })

	server := realollama.Start(t, realollama.Empty())
	state := filepath.Join(dir, "state")
	background(t, []string{"SSL_CERT_FILE=" + pebbleCert}, gatehouse, "gate", "--state-dir", state, "--admin", "off", "--config", file(t, "gatehouse.yaml", fmt.Sprintf(`
listen: [%q]
upstreams: [{url: %q}]
tls: {mode: acme, names: [127.0.0.1], ca: "https://%s/dir", http: %q}
`, listen, server.URL, directory, challenge)))

	// The authority's root is made anew with each start of it.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &cryptotls.Config{RootCAs: pool}}}
	resp, err := client.Get("https://" + management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	root, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(root) {
		t.Fatalf("the authority's root: %q %v", root, err)
	}
	presents(t, listen, &cryptotls.Config{RootCAs: roots}, func(cert *x509.Certificate) bool {
		life := cert.NotAfter.Sub(cert.NotBefore)
		if len(cert.IPAddresses) != 1 || !cert.IPAddresses[0].Equal(net.IPv4(127, 0, 0, 1)) || life > 7*24*time.Hour {
			t.Errorf("a certificate for %v, good for %s", cert.IPAddresses, life)
		}
		return true
	})
	// Nothing else is served in the clear.
	resp, err = http.Get("http://" + challenge + "/api/tags")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("the listener for http-01: %s", resp.Status)
	}
}

// TestCertificateFiles: certificates from files are taken up anew, wrong ones are
// not, and a client's certificate is a way in.
func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	selfSigned(t, "first", cert, key)
	clientCert, clientKey := filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key")
	selfSigned(t, "ada", clientCert, clientKey)
	listen := free(t)
	server := realollama.Start(t, realollama.Empty())
	background(t, nil, gatehouse, "gate", "--state-dir", filepath.Join(dir, "state"), "--admin", "off", "--config", file(t, "gatehouse.yaml", fmt.Sprintf(`
listen: [%q]
upstreams: [{url: %q}]
tls: {mode: files, cert: %q, key: %q}
login: {client_certificates: {ca: %q, maps: {ada: reader}}}
policies: {reader: {powers: [hello, read], models: ["*"]}}
`, listen, server.URL, cert, key, clientCert)))

	any := &cryptotls.Config{InsecureSkipVerify: true} // its name is what is looked at
	named := func(name string) func(*x509.Certificate) bool {
		return func(c *x509.Certificate) bool { return c.Subject.CommonName == name }
	}
	presents(t, listen, any, named("first"))
	second := selfSigned(t, "second", cert, key)
	presents(t, listen, any, named("second"))

	// A key that is not the certificate's changes nothing.
	selfSigned(t, "third", filepath.Join(dir, "unused.pem"), key)
	seen := 0
	presents(t, listen, any, func(c *x509.Certificate) bool {
		if c.Subject.CommonName != "second" {
			t.Errorf("%s is presented", c.Subject)
		}
		seen++
		return seen == 5
	})

	roots := x509.NewCertPool()
	roots.AddCert(second)
	pair, err := cryptotls.LoadX509KeyPair(clientCert, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	selfSigned(t, "eve", filepath.Join(dir, "eve.pem"), filepath.Join(dir, "eve.key"))
	eve, err := cryptotls.LoadX509KeyPair(filepath.Join(dir, "eve.pem"), filepath.Join(dir, "eve.key"))
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, certs ...cryptotls.Certificate) (int, error) {
		config := &cryptotls.Config{RootCAs: roots, GetClientCertificate: func(*cryptotls.CertificateRequestInfo) (*cryptotls.Certificate, error) {
			return &append(certs, cryptotls.Certificate{})[0], nil
		}}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
		defer client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+listen+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		_ = resp.Body.Close()
		return resp.StatusCode, nil
	}
	if status, err := get("/api/tags", pair); status != 200 {
		t.Errorf("with a certificate: %d %v", status, err)
	}
	if status, err := get("/api/tags"); status != 401 {
		t.Errorf("without a certificate: %d %v", status, err)
	}
	if status, err := get("/api/tags", eve); err == nil {
		t.Errorf("with a certificate of another authority: %d", status)
	}
	// Why, as TLS says it to a client that sends nothing more (1.3 is done before
	// the client's certificate is judged).
	conn, err := cryptotls.Dial("tcp", listen, &cryptotls.Config{RootCAs: roots, GetClientCertificate: func(*cryptotls.CertificateRequestInfo) (*cryptotls.Certificate, error) {
		return &eve, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate of another authority: %v", err)
	}
}
