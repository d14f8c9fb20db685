//go:build unix

package realollama

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The name and password that an Nginx lets in.
const (
	NginxUser     = "porter"
	NginxPassword = "oak and iron"
)

// Nginx is a running nginx that asks for a password.
type Nginx struct {
	AddrPort netip.AddrPort
	URL      string // http://address:port
	Log      string // the file that its errors go to

	cmd    *exec.Cmd
	exited chan struct{}
}

// As in Ollama's FAQ, with a password: Host is rewritten, so that the server
// behind takes every request for a local one.
const nginxConfig = `daemon off;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s;
		location / {
			auth_basic "Ollama";
			auth_basic_user_file %[1]s/users;
			proxy_pass %[3]s;
			proxy_set_header Host localhost:11434;
			proxy_buffering off;
		}
	}
}
`

// StartNginx starts an nginx on loopback with HTTP Basic authentication before
// upstream, a URL such as a Server's, and stops it when the test ends. Without
// an installed nginx it does as [Start] does without Ollama.
func StartNginx(t testing.TB, upstream string) *Nginx {
	t.Helper()
	bin := nginxProgram(t)
	dir := t.TempDir()
	// The workers of a root's nginx run as nobody, and read the passwords.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha1.Sum([]byte(NginxPassword)) // what nginx calls {SHA}; it guards a test
	users := NginxUser + ":{SHA}" + base64.StdEncoding.EncodeToString(sum[:]) + "\n"
	if err := os.WriteFile(filepath.Join(dir, "users"), []byte(users), 0o644); err != nil {
		t.Fatal(err)
	}
	// nginx cannot say which port it got, so it is told one that was free just
	// now; should another program have taken it since, the next one will do.
	var err error
	for range 5 {
		var n *Nginx
		if n, err = startNginx(bin, dir, upstream); err == nil {
			t.Cleanup(n.Stop)
			return n
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, "error.log"))
	t.Fatalf("start nginx: %v\n%s", err, log)
	return nil
}

func nginxProgram(t testing.TB) string {
	t.Helper()
	// Debian keeps it where only root's PATH leads.
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if bin, err := exec.LookPath(name); err == nil {
			return bin
		}
	}
	missing(t, "nginx is not installed: run make peers")
	return ""
}

func startNginx(bin, dir, upstream string) (*Nginx, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	if err := l.Close(); err != nil {
		return nil, err
	}
	n := &Nginx{
		AddrPort: addr,
		URL:      "http://" + addr.String(),
		Log:      filepath.Join(dir, "error.log"),
		exited:   make(chan struct{}),
	}
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, addr, upstream), 0o644); err != nil {
		return nil, err
	}
	n.cmd = exec.Command(bin, "-e", n.Log, "-p", dir, "-c", config)
	n.cmd.SysProcAttr = ownGroup()
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = n.cmd.Wait()
		close(n.exited)
	}()
	if err := n.ready(); err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

func (n *Nginx) ready() error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(startTimeout)
	for {
		if resp, err := http.Get(n.URL); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusUnauthorized {
				return nil
			}
			return fmt.Errorf("another program answers at %s", n.URL)
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
