//go:build unix

package realollama

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"text/template"
	"time"
)

// The name and password that an Nginx lets in.
const (
	NginxUser     = "porter"
	NginxPassword = "oak and iron"
)

// Nginx is a running nginx in front of a server.
type Nginx struct {
	AddrPort    netip.AddrPort
	URL         string            // scheme://address:port, and the path of Under
	Log         string            // the file that its errors go to
	Certificate *x509.Certificate // what it shows of itself; nil without TLS

	cmd    *exec.Cmd
	exited chan struct{}
}

// front says how an nginx stands before its upstream.
type front struct {
	Password bool
	Names    []string // of the certificate; nil for no TLS
	Path     string

	Dir, Upstream string
	Addr          netip.AddrPort
}

// NginxOption changes what StartNginx starts.
type NginxOption func(*front)

// NoPassword lets everybody in, as most recipes for Ollama do.
func NoPassword() NginxOption { return func(f *front) { f.Password = false } }

// TLS has nginx speak nothing but TLS, with a certificate for these names and
// 127.0.0.1 that nobody but itself has signed.
func TLS(names ...string) NginxOption { return func(f *front) { f.Names = names } }

// Under serves the upstream below path, such as "/ollama", and nothing beside it.
func Under(path string) NginxOption { return func(f *front) { f.Path = path } }

// As in Ollama's FAQ: Host is rewritten, so that the server behind takes every
// request for a local one.
var nginxConfig = template.Must(template.New("nginx.conf").Parse(`daemon off;
worker_processes 1;
pid {{.Dir}}/nginx.pid;
error_log {{.Dir}}/error.log;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi;
	uwsgi_temp_path {{.Dir}}/uwsgi;
	scgi_temp_path {{.Dir}}/scgi;
	server {
		listen {{.Addr}}{{if .Names}} ssl{{end}};
		{{- if .Names}}
		ssl_certificate {{.Dir}}/certificate.pem;
		ssl_certificate_key {{.Dir}}/key.pem;
		ssl_protocols TLSv1.2 TLSv1.3;
		{{- end}}
		location {{.Path}}/ {
			{{- if .Password}}
			auth_basic "Ollama";
			auth_basic_user_file {{.Dir}}/users;
			{{- end}}
			proxy_pass {{.Upstream}}{{if .Path}}/{{end}};
			proxy_set_header Host localhost:11434;
			proxy_buffering off;
		}
		{{- if .Path}}
		location / { return 404; }
		{{- end}}
	}
}
`))

// StartNginx starts an nginx on loopback before upstream, a URL such as a
// Server's, and stops it when the test ends. It asks for [NginxUser] and
// [NginxPassword] by HTTP Basic authentication, and speaks plain HTTP, unless
// told otherwise. Without an installed nginx it does as [Start] does without
// Ollama.
func StartNginx(t testing.TB, upstream string, opts ...NginxOption) *Nginx {
	t.Helper()
	bin := Program(t, "nginx")
	f := front{Password: true, Dir: t.TempDir(), Upstream: upstream}
	for _, opt := range opts {
		opt(&f)
	}
	// The workers of a root's nginx run as nobody, and read the passwords.
	for _, d := range []string{f.Dir, filepath.Dir(f.Dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha1.Sum([]byte(NginxPassword)) // what nginx calls {SHA}; it guards a test
	users := NginxUser + ":{SHA}" + base64.StdEncoding.EncodeToString(sum[:]) + "\n"
	if err := os.WriteFile(filepath.Join(f.Dir, "users"), []byte(users), 0o644); err != nil {
		t.Fatal(err)
	}
	var certificate *x509.Certificate
	if f.Names != nil {
		var err error
		if certificate, err = f.certify(); err != nil {
			t.Fatal(err)
		}
	}
	// nginx cannot say which port it got, so it is told one that was free just
	// now; should another program have taken it since, the next one will do.
	var err error
	for range 5 {
		var n *Nginx
		if n, err = f.start(bin); err == nil {
			n.Certificate = certificate
			t.Cleanup(n.Stop)
			return n
		}
	}
	log, _ := os.ReadFile(filepath.Join(f.Dir, "error.log"))
	t.Fatalf("start nginx: %v\n%s", err, log)
	return nil
}

// certify makes a key and a certificate, in nginx's folder. The certificate is
// valid from yesterday, for 90 days.
func (f *front) certify() (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	yesterday := time.Now().UTC().Truncate(time.Second).AddDate(0, 0, -1)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(yesterday.Unix()),
		Subject:      pkix.Name{CommonName: f.Names[0], Organization: []string{"Gatehouse's tests"}},
		DNSNames:     f.Names,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    yesterday,
		NotAfter:     yesterday.AddDate(0, 0, 90),
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	for name, block := range map[string]*pem.Block{
		"certificate.pem": {Type: "CERTIFICATE", Bytes: der},
		"key.pem":         {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(f.Dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return nil, err
		}
	}
	return x509.ParseCertificate(der)
}

func (f *front) start(bin string) (*Nginx, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.Addr = l.Addr().(*net.TCPAddr).AddrPort()
	if err := l.Close(); err != nil {
		return nil, err
	}
	scheme := "http"
	if f.Names != nil {
		scheme = "https"
	}
	n := &Nginx{
		AddrPort: f.Addr,
		URL:      scheme + "://" + f.Addr.String() + f.Path,
		Log:      filepath.Join(f.Dir, "error.log"),
		exited:   make(chan struct{}),
	}
	var text bytes.Buffer
	if err := nginxConfig.Execute(&text, f); err != nil {
		return nil, err
	}
	config := filepath.Join(f.Dir, "nginx.conf")
	if err := os.WriteFile(config, text.Bytes(), 0o644); err != nil {
		return nil, err
	}
	n.cmd = exec.Command(bin, "-e", n.Log, "-p", f.Dir, "-c", config)
	n.cmd.SysProcAttr = ownGroup()
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = n.cmd.Wait()
		close(n.exited)
	}()
	answer := http.StatusOK
	if f.Password {
		answer = http.StatusUnauthorized
	}
	if err := n.ready(answer); err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

// ready waits until nginx gives the answer that it is to give to strangers.
func (n *Nginx) ready(answer int) error {
	client := http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // it is its own authority
	}}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(startTimeout)
	for {
		if resp, err := client.Get(n.URL + "/"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == answer {
				return nil
			}
			return fmt.Errorf("%s answers %s: another program, or none behind it", n.URL, resp.Status)
		}
		select {
		case <-tick.C:
		case <-n.exited:
			return errors.New("it ended at once")
		case <-deadline:
			return fmt.Errorf("not ready after %v", startTimeout)
		}
	}
}

// Stop ends nginx and returns when it is gone. It may be called again.
func (n *Nginx) Stop() { stop(n.cmd, n.exited) }
