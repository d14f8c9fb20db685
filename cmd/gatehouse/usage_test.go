package main

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// gatehouse runs the command line in this process, as main does, and returns
// what became of it.
func gatehouse(t *testing.T, stdin string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e strings.Builder
	code = run(t.Context(), args, strings.NewReader(stdin), &o, &e)
	return code, o.String(), e.String()
}

// TestUsage holds every mistake on the command line to its message, its hint and
// its exit code. Mistakes in files are in testdata/files.txtar.
func TestUsage(t *testing.T) {
	const (
		see     = "see gatehouse scan --help"
		targets = "targets are addresses, networks, ranges a-b, names, host:port and URLs"
	)
	for _, c := range []struct{ args, wrong, hint string }{
		{"scna", `did you mean "scan"?`, "see gatehouse --help"},
		{"scan", "no target", "such as: gatehouse scan 192.168.1.0/24"},
		{"scan --scop 127.0.0.1", `unknown flag --scop, did you mean "--scope"?`, see},
		{"scope check", `expected "<file>"`, "see gatehouse scope check --help"},
		{"completion tcsh", `must be one of "bash","zsh","fish"`, "see gatehouse completion --help"},

		// What may be looked at.
		{"scan 8.8.8.8", "8.8.8.8 is a public address: no scope permits it", "gatehouse scope init > scope.yaml"},
		{"scan 9.0.0.0/8", "9.0.0.0/8: 9.0.0.0 is a public address: no scope permits it", "--scope scope.yaml"},
		{"scan 2606:4700::1111", "is a public address: no scope permits it", "gatehouse scope init"},
		{"scan https://1.1.1.1/ollama", "is a public address: no scope permits it", "gatehouse scope init"},
		{"scan 10.255.255.254-11.0.0.1", "11.0.0.0 is a public address", "gatehouse scope init"},
		{"scan 127.0.0.1 8.8.8.8", "8.8.8.8 is a public address", "gatehouse scope init"},
		{"scan 169.254.169.254", "169.254.169.254 is in 169.254.0.0/16 (link-local, RFC 3927), which is never touched", "no scope file permits"},
		{"scan 224.0.0.1", "(multicast, RFC 5771), which is never touched", "leave it out"},
		{"scan ff02::1", "which is never touched", "leave it out"},
		{"scan 0.0.0.0", "which is never touched", "leave it out"},
		{"scan ::ffff:8.8.8.8", "8.8.8.8 is a public address", "gatehouse scope init"},
		{"scan 127.0.0.1 --exclude 127.0.0.0/8", "127.0.0.1 is in 127.0.0.0/8, which is excluded", "--exclude"},
		{"scan 127.0.0.0/30 --exclude 127.0.0.0/8", "127.0.0.0 is in 127.0.0.0/8, which is excluded", "--exclude"},
		{"scan 127.0.0.1 --exclude nonsense", "--exclude nonsense: not an address or a network", "--exclude 10.0.0.0/8"},

		// How ports are found.
		{"scan --sweep ping 127.0.0.1", `--sweep must be one of "auto","connect","syn"`, see},
		{"scan --sweep syn -", "needs targets that are known at the start", "--targets takes the same lines"},
		{"scan --dry-run x.pcap -", "needs targets that are known at the start", "--targets takes the same lines"},
		{"scan --sweep syn --gateway-mac 1:2 127.0.0.1", `--gateway-mac "1:2" is no hardware address`, "02:00:5e:10:00:01"},
		{"scan --sweep syn 127.0.0.1", "--sweep syn: ", "--sweep connect"},
		{"scan --probes -1 127.0.0.1", "--probes cannot be -1", see},

		// What a target can be.
		{"scan 127.0.0.1/33", `"127.0.0.1/33" is no network`, targets},
		{"scan 127.0.0.9-127.0.0.1", `"127.0.0.9-127.0.0.1" is no`, targets},
		{"scan 300.1.1.1", `"300.1.1.1" is no address, network, range, host name or URL`, targets},
		{"scan 127.0.0.1:0", `"0" is no port from 1 to 65535`, targets},
		{"scan 127.0.0.1:99999", `"99999" is no port from 1 to 65535`, targets},
		{"scan [::1", "is no address in brackets", targets},
		{"scan 127.0.0.9-127.0.0.1", "is no range: it must go from a lower to a higher address", targets},
		{"scan 127.0.0.9-127.0.0.l", `"127.0.0.l" is no address`, targets},
		{"scan ftp://127.0.0.1", "only http and https are looked at", targets},
		{"scan http://127.0.0.1:port/", "is no URL", targets},
		{"scan http://me:secret@127.0.0.1/", "names a user: no credentials are tried", targets},
		{"scan http://127.0.0.1/?q=1", "a target ends with its path", targets},
		{"scan 127.0.0.1/ollama", "is no network", targets},
		{"scan - 127.0.0.1", "- stands alone", "leave out the other targets"},
		{"scan 127.0.0.1 -", "- stands alone", "leave out the other targets"},
		{"scan fc00::/7", "is too large", targets},

		// Flags.
		{"scan 127.0.0.1 --ports 0", `"0" is no port from 1 to 65535`, see},
		{"check --ports 0", `"0" is no port from 1 to 65535`, "see gatehouse check --help"},
		{"scan 127.0.0.1 --ports 70000", `"70000" is no port from 1 to 65535`, see},
		{"scan 127.0.0.1 --shard 5/4", `"5/4" is no shard such as 2/5`, see},
		{"scan 127.0.0.1 --shard 0/4", `"0/4" is no shard`, see},
		{"scan 127.0.0.1 --shard half", `"half" is no shard`, see},
		{"scan 127.0.0.1 --sample 0", `"0" is no part such as 1% or 0.01`, see},
		{"scan 127.0.0.1 --sample 101%", `"101%" is no part`, see},
		{"scan 127.0.0.1 --sample NaN", `"NaN" is no part`, see},
		{"scan 127.0.0.1 --seed x", `--seed: "x" is no whole number`, see + " for --seed"},
		{"scan 127.0.0.1 --seed=-1", `--seed: "-1" is no whole number`, see + " for --seed"},
		{"scan 127.0.0.1 --seed -1", "--seed cannot be -1", see + " for --seed"},
		{"scan 127.0.0.1 --seed 18446744073709551616", "is no whole number that it takes", see},
		{"scan 127.0.0.1 --rate -1", "--rate cannot be -1", "such as --rate 500; " + see},
		{"scan 127.0.0.1 --rate -1e3", "--rate cannot be -1e3", "such as --rate 500; " + see},
		{"scan 127.0.0.1 --rate", "--rate needs a value", "such as --rate 500; " + see},
		{"scan 127.0.0.1 --rate --prove", `--rate needs a value, and "--prove" is a flag`, "such as --rate 500; " + see},
		{"scan 127.0.0.1 --rate -q", `--rate needs a value, and "-q" is a flag`, "such as --rate 500; " + see},
		{"scan 127.0.0.1 --concurrency -1", "--concurrency cannot be -1", "such as --concurrency 1000; " + see},
		{"scan 127.0.0.1 --concurrency many", `--concurrency: "many" is no whole number`, "such as --concurrency 1000; " + see},
		{"scan 127.0.0.1 --timeout -1s", "--timeout cannot be -1s", "such as --timeout 3s; " + see},
		{"scan 127.0.0.1 --ports", "--ports needs a value", see + " for --ports"},
		{"scan 127.0.0.1 --ports -1", "--ports cannot be -1", see + " for --ports"},
		{"scan 127.0.0.1 --shard -1/2", "--shard cannot be -1/2", see + " for --shard"},
		{"scan 127.0.0.1 --rate 0", "--rate 0 is not between", "connections a second"},
		{"scan 127.0.0.1 --rate=-1", "--rate -1 is not between", "connections a second"},
		{"scan 127.0.0.1 --rate NaN", "--rate NaN is not between", "connections a second"},
		{"scan 127.0.0.1 --rate 1e-30", "--rate 1e-30 is not between", "connections a second"},
		{"scan 127.0.0.1 --rate fast", `--rate: "fast" is no number`, "such as --rate 500; " + see},
		{"scan 127.0.0.1 --network-rate 0", "--network-rate 0 is not between", "connections a second"},
		{"scan 127.0.0.1 --concurrency 0", "--concurrency 0 is not between 1 and 100000", "--concurrency 1000"},
		{"scan 127.0.0.1 --concurrency 100001", "not between 1 and 100000", "--concurrency 1000"},
		{"scan 127.0.0.1 --timeout 0", "--timeout and --max-time have to be above 0", "--timeout 3s"},
		{"scan 127.0.0.1 --timeout 3", `--timeout: "3" is no time, such as 90s or 5m`, "such as --timeout 3s; " + see},
		{"scan 127.0.0.1 --max-time=-1s", "have to be above 0", "--max-time 15s"},
		{"scan 127.0.0.1 --max-bytes 10", "--max-bytes 10 is less than one answer takes", "--max-bytes 8388608"},
		{"scan 127.0.0.1 --retries=-1", "--retries and --max-details cannot be negative", see},
		{"scan 127.0.0.1 --max-details=-1", "cannot be negative", see},
		{"scan 127.0.0.1 --contact me", `--contact "me" is no mailto:, https: or tel: URI`, "--contact mailto:"},
		{"scan 127.0.0.1 --contact http://example.org/", "is no mailto:, https: or tel: URI", "--contact mailto:"},
		{"scan 127.0.0.1 --contact mailto:a@example.org)\r\nX-Injected:1", "is no mailto:, https: or tel: URI", "--contact mailto:"},
		{"scan 127.0.0.1 --format xml", "--format must be one of", see},
		{"check --compose /nonexistent", "/nonexistent: no such file", "--compose takes a compose file"},
		{"check --manifests /nonexistent", "/nonexistent: no such file", "--manifests takes a folder"},
		{"check --manifests /dev/null", "/dev/null is no folder", "--manifests takes a folder"},
		{"check --kubeconfig /", "/ is no file", "--kubeconfig takes a kubeconfig file"},
		{"harden --apply --undo", "--apply and --undo can't be used together", "see gatehouse harden --help"},
		{"harden --undo --gate", "--gate goes with --apply", "takes back the gate too"},
		{"harden --root /nonexistent", "--root /nonexistent: no such folder", "an image is mounted"},
		{"harden --manifests /nonexistent --apply", "/nonexistent: no such file", "--manifests takes a folder"},
		{"harden --undo --state-dir /nonexistent/x", "/nonexistent/x/harden: nothing was changed here", "shows what could be changed"},
		{"check --format xml", "--format must be one of", "see gatehouse check --help"},
		{"scan 127.0.0.1 --fail-on none", "--fail-on must be one of", see},

		// Files that are not there; what is wrong in them is in the scripts.
		{"scan --targets /nonexistent", "open /nonexistent: no such file", "one target a line"},
		{"scan --targets /", "is a directory", "one target a line"},
		{"scan --targets /dev/null", "no target in /dev/null", "one target a line"},
		{"scan 127.0.0.1 --scope /nonexistent", "open /nonexistent: no such file", "gatehouse scope init"},
		{"scan 127.0.0.1 --exclude-file /nonexistent", "open /nonexistent: no such file", "zmap's blocklist format"},
		{"scan 127.0.0.1 --exclude-file /", "is a directory", "zmap's blocklist format"},
		{"scan 127.0.0.1 --advisories /nonexistent", "--advisories /nonexistent", "folder of OSV files"},
		{"scan 127.0.0.1 --format json --out /nonexistent/x", "--out /nonexistent/x: no such file", "file that can be written"},
		{"scan 127.0.0.1 --format csv --out /", "--out /: is a directory", "file that can be written"},
		{"scan 127.0.0.1 --format jsonl --out /", "open /: is a directory", "file that can be written"},
		{"check --format json --out /nonexistent/x", "--out /nonexistent/x: no such file", "file that can be written"},
		{"scan 127.0.0.1 --state /nonexistent/x", "/nonexistent/x: no such file", "--state takes a file"},
		{"scan 127.0.0.1 --state /", "is a directory", "--state takes a file"},
		{"scan 127.0.0.1 --state x --out ./x", "--state and --out name the same file", "a file of its own"},
		{"deploy", `expected "<format>"`, "see gatehouse deploy --help"},
		{"deploy docker", `"docker" is nothing that can be deployed`, "one of cloud-init, compose, systemd"},
		{"deploy cloud-init --sha256 ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "--binary-url: cloud-init needs it", "--binary-url https://"},
		{"deploy helm", "--image: helm needs it", "docs/deploy.md"},
		{"deploy helm --image r.example.org/g:1", "helm is several files", "--out PATH"},
		{"deploy helm --image r.example.org/g", "--image: r.example.org/g is another image tomorrow", "give a tag"},
		{"deploy nginx --image x:1", "--image: nginx has no use for it", "nginx takes --domain"},
		{"deploy nginx --domain a.example;x", `--domain: "a.example;x" is no full name`, "--domain ai.example.org"},
		{"deploy nginx --domain box", "is no full name in DNS", "--domain ai.example.org"},
		{"deploy nginx --cert /a/../b", "is no plain absolute path", "--cert /etc"},
		{"deploy nginx --port 11434", "--port: 11434 is taken", "443"},
		{"deploy nginx --port 0", `"0" is no port from 1 to 65535`, "see gatehouse deploy --help"},
		{"deploy compose --email a@example.org", "--email: without a domain", "--domain"},
		{"deploy compose --gpu intel", `--gpu: "intel" is no kind of GPU`, "none, nvidia or amd"},
		{"deploy compose --models ${x}", `--models: "${x}" is no model's name`, "--models llama3.2"},
		{"deploy compose --ollama-version latest", `"latest" is no version`, "--ollama-version"},
		{"deploy cloud-init --binary-url http://x/y --sha256 ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", `--binary-url: "http://x/y" is no plain https URL`, "--sha256 HEX"},
		{"report", `expected "<source>"`, "see gatehouse report --help"},
		{"report /nonexistent", "open /nonexistent: no such file", "gatehouse scan --format jsonl"},
		{"report /", "is a directory", "gatehouse scan --format jsonl"},
		{"report /dev/null --html /nonexistent/x", "--html /nonexistent/x: no such file", "--html takes a file"},
		{"report /dev/null --stix x --csv ./x", "--csv and --stix name the same file", "a file of its own"},
		{"report /dev/null --html - --markdown -", "--html and --markdown name the same file", "a file of its own"},
		{"report /dev/null --anonymise-key x", "--anonymise-key without --anonymise", "add --anonymise"},
		{"report /dev/null --anonymise --anonymise-key /nonexistent", "open /nonexistent: no such file", "16 random bytes"},
		{"report /dev/null --anonymise --anonymise-key /dev/null", "0 bytes are too few", "/dev/urandom"},
		{"scope check /nonexistent", "open /nonexistent: no such file", "gatehouse scope init"},
	} {
		code, out, errOut := gatehouse(t, "", strings.Split(c.args, " ")...)
		wrong, hint, hinted := strings.Cut(errOut, "\nhint: ")
		switch {
		case code != exitUsage:
			t.Errorf("gatehouse %s: exit code %d, want %d", c.args, code, exitUsage)
		case out != "":
			t.Errorf("gatehouse %s: standard output has %q", c.args, out)
		case !strings.HasPrefix(wrong, "gatehouse: ") || !strings.Contains(wrong, c.wrong):
			t.Errorf("gatehouse %s: says %q, want %q in it", c.args, wrong, c.wrong)
		case !hinted || !strings.Contains(hint, c.hint):
			t.Errorf("gatehouse %s: hints at %q, want %q in it", c.args, hint, c.hint)
		case strings.Count(errOut, "\n") != 2:
			t.Errorf("gatehouse %s: %d lines, want what is wrong and a hint:\n%s", c.args, strings.Count(errOut, "\n"), errOut)
		}
	}
}

// TestMistakesTogether: who types five targets wrong hears of all five at once.
func TestMistakesTogether(t *testing.T) {
	code, _, errOut := gatehouse(t, "", "scan", "127.0.0.1/33", "ftp://127.0.0.1", "8.8.8.8", "127.0.0.1:0", "\x1b[2J")
	if code != exitUsage {
		t.Errorf("exit code %d, want %d", code, exitUsage)
	}
	for _, want := range []string{"is no network", "only http and https", "8.8.8.8 is a public", "is no port", `\x1b[2J`} {
		if !strings.Contains(errOut, "gatehouse: ") || !strings.Contains(errOut, want) {
			t.Errorf("%q does not say %q", errOut, want)
		}
	}
	if strings.Contains(errOut, "\x1b") {
		t.Errorf("%q would reach the terminal as it is", errOut)
	}
}

// TestHelp reads every --help there is: it fits 80 columns, and names each flag.
func TestHelp(t *testing.T) {
	for _, path := range commandPaths(t) {
		args := append(strings.Fields(path), "--help")
		code, out, errOut := gatehouse(t, "", args...)
		if code != exitOK || errOut != "" {
			t.Errorf("gatehouse %s --help: exit code %d, %q", path, code, errOut)
		}
		if !strings.HasPrefix(out, strings.TrimSpace("Usage: gatehouse "+path)) {
			t.Errorf("gatehouse %s --help begins with %.60q", path, out)
		}
		if line, columns := widest(out); columns > 80 {
			t.Errorf("gatehouse %s --help has a line of %d columns: %s", path, columns, line)
		}
		again, help, _ := gatehouse(t, "", append([]string{"help"}, strings.Fields(path)...)...)
		if again != exitOK || help != out {
			t.Errorf("gatehouse help %s is not gatehouse %[1]s --help", path)
		}
	}
	bare, out, _ := gatehouse(t, "")
	if _, help, _ := gatehouse(t, "", "--help"); bare != exitOK || out != help {
		t.Errorf("gatehouse alone: exit code %d and no help", bare)
	}
}

// model is the command line as kong has it.
func model(t *testing.T) *kong.Application {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("gatehouse"), vars, kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

// commandPaths are the words of every command, "" for the program itself.
func commandPaths(t *testing.T) (paths []string) {
	t.Helper()
	walkCommands(model(t).Node, "", func(path string, _ *kong.Node) {
		paths = append(paths, strings.TrimSpace(strings.ReplaceAll(path, "/", " ")))
	})
	return paths
}

// TestJunk throws arguments together that nobody meant. Whatever comes, it ends
// with one of our codes and our words, and never with a stack trace: a panic
// would end this test. No word of it is a name that would be looked up.
func TestJunk(t *testing.T) {
	t.Parallel()
	words := []string{
		"", "-", "--", "---", "-x", "-p", "-o", "-q", "--=", "--scope", "--scope=", "--ports=", "--ports=,", "--ports=1,,2",
		"--shard=1/1", "--shard=/", "--shard=4294967295/4294967295", "--sample=1e-300", "--sample=%", "--sample=100%",
		"--seed=18446744073709551615", "--seed=18446744073709551616", "--rate=1e309", "--rate=Inf", "--rate=0x1p-1074",
		"--network-rate=1e9", "--concurrency=9223372036854775808", "--concurrency=100000", "--timeout=1ns", "--timeout=9999999h",
		"--max-time=1ns", "--max-bytes=9223372036854775807", "--retries=9223372036854775807", "--max-details=9223372036854775807",
		"--format=", "--fail-on=", "--exclude=", "--exclude=::/0", "--exclude=0.0.0.0/0", "--advisories=", "--contact=",
		"--contact=mailto:", "--contact=https:", "--help=maybe", "--prove=no", "--no-prove", "--all=1", "--quiet=\x00",
		"127.0.0.1", "127.0.0.1:1", "[::1]:1", "::1", "127.0.0.0/31", "127.0.0.1-127.0.0.2", "127.0.0.1-", "-127.0.0.1", "127.0.0.1/",
		"http://", "http://:1", "https://[::1]:1/../x", "http://127.0.0.1:1/%zz", "http://127.0.0.1:1/%00", "//127.0.0.1", "http://[fe80::1%25eth0]/",
		"0", "4294967296", "017700000001", "127.1", "1.2.3.4.5", "::ffff:127.0.0.1", "::1%lo", "[]", "[", "]", "[::1]:", "a..b", strings.Repeat("a", 5000), "\xff\xfe", "\x1b]0;x\x07", "日本語", "%s%n%d", "${HOME}", "*", "'", "\"",
	}
	commands := []string{"scan", "scope", "check --format=nope", "scope check", "completion", "man", "version", "--version", "help", "--help", "", "demo extra"}
	rng := rand.New(rand.NewPCG(1, 2))
	codes := map[int]int{}
	for range 400 {
		args := strings.Fields(commands[rng.IntN(len(commands))])
		if rng.IntN(2) == 0 {
			args = []string{"scan", "--timeout=50ms", "--retries=0"}
		}
		for range 1 + rng.IntN(4) {
			args = append(args, words[rng.IntN(len(words))])
		}
		stdin := strings.Join(words[rng.IntN(len(words)):], "\n")
		code, _, errOut := gatehouse(t, stdin, args...)
		codes[code]++
		switch code {
		case exitOK, exitFindings:
		case exitFailed, exitUsage:
			if !strings.Contains(errOut, "gatehouse: ") {
				t.Errorf("gatehouse %q: exit code %d without a word: %q", args, code, errOut)
			}
		default:
			t.Errorf("gatehouse %q: exit code %d", args, code)
		}
		if strings.ContainsAny(errOut, "\x00\x07\x1b") || trace.MatchString(errOut) {
			t.Errorf("gatehouse %q: writes %q", args, errOut)
		}
	}
	if codes[exitOK] == 0 || codes[exitUsage] == 0 {
		t.Errorf("exit codes %v: the junk is of one kind only", codes)
	}
}
