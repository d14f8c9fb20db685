//go:build unix

package realollama

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"
)

// Version is the release of Ollama that Start runs.
const Version = "0.17.4"

// loopback is where a server listens: port 0 is any that is free.
const loopback = "127.0.0.1:0"

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	loadTimeout  = time.Minute // of `ollama create`
)

// Server is a running Ollama.
type Server struct {
	AddrPort netip.AddrPort // where it answers, always on loopback
	URL      string         // http://address:port
	Home     string         // its HOME folder, with its key pair
	Models   string         // its OLLAMA_MODELS folder
	Log      string         // the file that its standard output and error go to

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
}

type config struct {
	host  string
	env   []string
	empty bool
	apart bool // in a network namespace
}

// Option changes what Start starts.
type Option func(*config)

// Env sets variables of the server's environment, each as "NAME=value".
func Env(vars ...string) Option {
	return func(c *config) { c.env = append(c.env, vars...) }
}

// Empty starts a server that has no model.
func Empty() Option { return func(c *config) { c.empty = true } }

// IPv6 binds the server to [::1] instead of 127.0.0.1.
func IPv6() Option { return func(c *config) { c.host = "[::1]:0" } }

// Everywhere binds the server to 0.0.0.0, as careless owners do, in a network
// namespace that leads nowhere. AddrPort is a relay on our loopback that leads
// there: what passes through is not changed.
func Everywhere() Option {
	return func(c *config) { c.host, c.apart = "0.0.0.0:11434", true }
}

// Apart binds the server to 127.0.0.1 with Ollama's own port, in a network
// namespace as Everywhere does.
func Apart() Option {
	return func(c *config) { c.host, c.apart = "127.0.0.1:11434", true }
}

// Start runs a server that has the tiny model, waits until it answers, and stops
// it when the test ends. Its folders are the test's own, its cloud features are
// off, and nothing of the caller's environment reaches it.
//
// Without an installed Ollama the test is skipped; with GATEHOUSE_REQUIRE_PEERS=1
// it fails.
func Start(t testing.TB, opts ...Option) *Server {
	t.Helper()
	c := config{host: loopback}
	for _, opt := range opts {
		opt(&c)
	}
	bin := Binary(t)
	dir := t.TempDir()
	models := filepath.Join(dir, "models")
	if c.empty {
		if err := os.Mkdir(models, 0o755); err != nil {
			t.Fatal(err)
		}
	} else {
		copyFolder(t, models, modelsFolder(t, bin))
	}
	s, err := start(bin, dir, c)
	if err != nil {
		if errors.Is(err, errNoNamespace) {
			Missing(t, err.Error())
		}
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the real Ollama:\n%s", s.tail())
		}
	})
	return s
}

// Binary finds the installed Ollama, for tests of its command line too. Without
// it the test ends as in [Start].
func Binary(t testing.TB) string {
	t.Helper()
	return Peer(t, "real Ollama", "ollama-"+Version, "ollama")
}

// SDKs is the folder with the SDKs for JavaScript, which node finds when a folder
// above a program has a link node_modules to it.
func SDKs(t testing.TB) string {
	t.Helper()
	return Peer(t, "the SDKs of npm", "npm", "node_modules")
}

// GoClient is the go.mod to build programs with that use Ollama's Go client.
func GoClient(t testing.TB) string {
	t.Helper()
	return Peer(t, "Ollama's Go client", "goclient-"+Version, "go.mod")
}

// Pebble finds an ACME authority for tests: it belongs here, for it is found as
// Ollama is.
func Pebble(t testing.TB) string {
	t.Helper()
	return Peer(t, "pebble", "pebble-v2.8.0", "pebble")
}

// start runs bin with all its files under dir, where models exists already.
func start(bin, dir string, c config) (*Server, error) {
	s := &Server{
		Home:   filepath.Join(dir, "home"),
		Models: filepath.Join(dir, "models"),
		Log:    filepath.Join(dir, "ollama.log"),
		exited: make(chan struct{}),
	}
	if err := os.Mkdir(s.Home, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(s.Log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the server has its own copy

	s.cmd = exec.Command(bin, "serve")
	s.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"TMPDIR=" + dir,
		"HOME=" + s.Home,
		"OLLAMA_MODELS=" + s.Models,
		"OLLAMA_HOST=" + c.host,
		"OLLAMA_NO_CLOUD=1",
	}, c.env...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = ownGroup()
	if c.apart {
		release, err := s.moveOut()
		if err != nil {
			return nil, err
		}
		defer release()
	}
	if err := s.cmd.Start(); err != nil {
		if c.apart {
			err = fmt.Errorf("%w: %w", errNoNamespace, err)
		}
		return nil, err
	}
	go func() {
		// How it ended is in its log; that it ended is what start and Stop wait for.
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	if err := s.ready(); err != nil {
		s.Stop()
		return nil, fmt.Errorf("start Ollama: %w; its log:\n%s", err, s.tail())
	}
	return s, nil
}

var (
	listening = regexp.MustCompile(`msg="Listening on (\S+) `)
	// settled is the last line of a start. Snapshots of the log are taken after it.
	settled = []byte(`msg="vram-based default context"`)
)

// ready waits until the server answers and has written the last line of its
// start to its log. It asked for port 0: the log tells which one it got.
func (s *Server) ready() error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(startTimeout)
	for {
		log, err := os.ReadFile(s.Log)
		if err != nil {
			return err
		}
		if m := listening.FindSubmatch(log); m != nil && bytes.Contains(log, settled) {
			if !s.AddrPort.IsValid() {
				if s.AddrPort, err = netip.ParseAddrPort(string(m[1])); err != nil {
					return err
				}
			}
			s.URL = "http://" + s.AddrPort.String()
			resp, err := http.Get(s.URL)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-s.exited:
			return errors.New("it ended at once")
		case <-deadline:
			return fmt.Errorf("not ready after %v", startTimeout)
		}
	}
}

// Stop ends the server and everything it started, and returns when they are
// gone. It may be called again.
func (s *Server) Stop() {
	stop(s.cmd, s.exited)
}

// stop asks the process group that cmd leads to end, and then makes it.
func stop(cmd *exec.Cmd, exited <-chan struct{}) {
	group := -cmd.Process.Pid
	select {
	case <-exited:
	default:
		_ = syscall.Kill(group, syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(stopTimeout):
		}
	}
	// The leader has gone, or will now; a runner that outlived it goes too.
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-exited
	// Killed is not gone: a process group that has a process can be signalled.
	for range 100 {
		if errors.Is(syscall.Kill(group, 0), syscall.ESRCH) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tail is the end of the server's log, for a message.
func (s *Server) tail() []byte {
	log, err := os.ReadFile(s.Log)
	if err != nil {
		return []byte(err.Error())
	}
	return log[max(0, len(log)-4096):]
}

// Load has the server load the tiny model, as a user's first request would.
func (s *Server) Load(t testing.TB) {
	t.Helper()
	reply := s.Ask(t, Request{Method: http.MethodPost, Path: "/api/generate", Body: `{"model":"` + Model + `"}`})
	if reply.Status != http.StatusOK {
		t.Fatalf("load the tiny model: %d %s", reply.Status, reply.Body)
	}
}

// modelsFolder returns a models folder that has the tiny model. It is made once
// for each version of Ollama and of the model; test processes take turns.
func modelsFolder(t testing.TB, bin string) string {
	t.Helper()
	dir := filepath.Join(peers(t), "tiny-"+Version)
	lock, err := os.Create(dir + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() // and unlock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	weights := Tiny()
	sum := sha256.New()
	sum.Write(weights)
	sum.Write([]byte(Modelfile))
	stamp := fmt.Sprintf("%x\n", sum.Sum(nil))
	if got, err := os.ReadFile(filepath.Join(dir, "stamp")); err == nil && string(got) == stamp {
		return filepath.Join(dir, "models")
	}
	models := makeModels(t, bin, weights)
	// A folder that has the name is a whole one: it is filled under another.
	const filling = ".new"
	for _, old := range []string{dir, dir + filling} {
		if err := os.RemoveAll(old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+filling, 0o755); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, filepath.Join(dir+filling, "models"), models)
	if err := os.WriteFile(filepath.Join(dir+filling, "stamp"), []byte(stamp), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+filling, dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "models")
}

// makeModels creates the tiny model with the real server and returns the server's
// models folder, which is the test's own: Ollama keeps the path of a model's file
// in the model and shows it to callers, so no path of the cache may get in there.
func makeModels(t testing.TB, bin string, weights []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"tiny.gguf": weights, "Modelfile": []byte(Modelfile)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	models := filepath.Join(dir, "models")
	if err := os.Mkdir(models, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := start(bin, dir, config{host: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), loadTimeout)
	defer cancel()
	create := exec.CommandContext(ctx, bin, "create", Model, "-f", "Modelfile")
	create.Dir = dir
	create.Env = []string{"HOME=" + s.Home, "OLLAMA_HOST=" + s.AddrPort.String()}
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("ollama create: %v\n%s", err, out)
	}
	return models
}

// copyFolder copies the folder from to a new folder to, with the files' times:
// a server shows those of its manifests.
func copyFolder(t testing.TB, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// From the leaves up, for the time of a folder is that of its last entry.
	var names []string
	err := filepath.WalkDir(from, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Backward(names) {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(to, rel), info.ModTime(), info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
}
