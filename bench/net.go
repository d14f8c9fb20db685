package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// up brings up the hosts and writes their lists. down takes all down again; it
// is never nil.
func (b *bench) up(ctx context.Context) (down func(), err error) {
	var undo []func()
	down = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	street := b.file("street")
	build := exec.CommandContext(ctx, "go", "build", "-o", street, "./bench/street")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return down, fmt.Errorf("build the simulator: %w", err)
	}
	args := []string{"-n", fmt.Sprint(b.hosts), "-port", port, "-list", b.file("truth"), "-net", b.loop(), "-one", "lo"}
	words := []string{street}
	if _, err := exec.LookPath("ip"); err == nil && os.Geteuid() == 0 {
		hosts := fmt.Sprintf("gatehouse-hosts-%d", os.Getpid())
		b.hostsNS = hosts
		b.scanner = fmt.Sprintf("gatehouse-scan-%d", os.Getpid())
		for _, ns := range []string{hosts, b.scanner} {
			undo = append(undo, func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		}
		if err := b.join(ctx, hosts); err != nil {
			return down, err
		}
		words = []string{"ip", "netns", "exec", hosts, street}
		args = append(args[:len(args)-4], "-net", b.network(), "-one", "host0")
	}
	cmd := exec.CommandContext(ctx, words[0], append(words[1:], args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return down, err
	}
	if err := cmd.Start(); err != nil {
		return down, err
	}
	b.street = cmd.Process.Pid // "ip netns exec" becomes the simulator
	undo = append(undo, func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
	})
	ready := make(chan bool, 1)
	go func() {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		ready <- strings.HasPrefix(line, "ready")
	}()
	select {
	case ok := <-ready:
		if !ok {
			return down, errNoHosts
		}
	case <-time.After(time.Minute):
		return down, errNoHosts
	}
	if err := b.lists(); err != nil || !b.sweep || b.scanner == "" {
		return down, err
	}
	return down, b.fewRoutes(ctx)
}

// fewRoutes has only the addresses of hosts answer; a packet to any other of
// the network is lost, as most of a sweep's are.
func (b *bench) fewRoutes(ctx context.Context) error {
	var batch strings.Builder
	fmt.Fprintf(&batch, "route del local %s dev lo\n", b.network())
	for addr := range b.truth {
		fmt.Fprintf(&batch, "route add local %s/32 dev lo\n", addr)
	}
	cmd := exec.CommandContext(ctx, "ip", "-n", b.hostsNS, "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("routes: %s", strings.TrimSpace(string(text)))
	}
	return nil
}

// join makes the two namespaces and the wire between them.
func (b *bench) join(ctx context.Context, hosts string) error {
	in := func(ns string, args ...string) []string { return append([]string{"ip", "-n", ns}, args...) }
	for _, words := range [][]string{
		{"ip", "netns", "add", hosts},
		{"ip", "netns", "add", b.scanner},
		in(b.scanner, "link", "add", "scan0", "type", "veth", "peer", "name", "host0", "netns", hosts),
		in(hosts, "link", "set", "lo", "up"),
		in(b.scanner, "link", "set", "lo", "up"),
		in(hosts, "addr", "add", there+"/24", "dev", "host0"),
		in(b.scanner, "addr", "add", here+"/24", "dev", "scan0"),
		in(hosts, "link", "set", "host0", "up"),
		in(b.scanner, "link", "set", "scan0", "up"),
		in(hosts, "route", "add", "local", b.network(), "dev", "lo"),
		in(b.scanner, "route", "add", b.network(), "via", there),
	} {
		if text, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %s", strings.Join(words, " "), strings.TrimSpace(string(text)))
		}
	}
	mac, err := exec.CommandContext(ctx, "ip", "netns", "exec", hosts, "cat", "/sys/class/net/host0/address").Output()
	b.mac = strings.ReplaceAll(strings.TrimSpace(string(mac)), ":", "-")
	return err
}

// lists writes the hosts in the form each tool wants.
func (b *bench) lists() error {
	f, err := os.Open(b.file("truth"))
	if err != nil {
		return err
	}
	defer f.Close()
	b.truth = make(map[string]string, b.hosts)
	var hosts, addresses, few, curl strings.Builder
	dec := json.NewDecoder(f)
	for n := 0; dec.More(); n++ {
		var h struct {
			Address netip.AddrPort `json:"address"`
			Outcome string         `json:"outcome"`
		}
		if err := dec.Decode(&h); err != nil {
			return err
		}
		addr := h.Address.Addr().String()
		b.truth[addr] = h.Outcome
		fmt.Fprintln(&hosts, h.Address)
		fmt.Fprintln(&addresses, addr)
		if n < b.slow {
			fmt.Fprintln(&few, addr)
		}
		for _, path := range []string{"/", "/api/version", "/api/tags", "/api/ps"} {
			fmt.Fprintf(&curl, "url = \"http://%s%s\"\noutput = \"/dev/null\"\n", h.Address, path)
		}
	}
	for name, text := range map[string]*strings.Builder{"hosts": &hosts, "addresses": &addresses, "few": &few, "curl": &curl} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text.String()), 0o600); err != nil {
			return err
		}
	}
	return nil
}
