package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestTailnetConfig: who is named how on the left side of login.tailnet, and what
// is different on a tailnet.
func TestTailnetConfig(t *testing.T) {
	load := func(text string, on bool) (*config, error) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "g.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return loadConfigOn(path, on)
	}
	for rule, ok := range map[string]bool{
		"ada@example.com": true, "grace": true, "*@example.com": true, "*": true, "tag:ci": true, "shared:bob@example.org": true,
		"": false, "ada@*": false, "*.example.com": false, "tag:": false, "tag:*": false, "shared:*": false, "shared:tag:ci": false, "group:ops": false, "a b": false,
	} {
		_, err := load("policies: {p: {}}\nlogin: {tailnet: {maps: {'"+rule+"': p}}}\n", true)
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "is none of ada@example.com") {
			t.Errorf("%q: %v", rule, err)
		}
	}
	c, err := load("", true)
	if err != nil || !c.Tailnet.On || !reflect.DeepEqual(c.Listen, []string{":11434"}) || c.Tailnet.Hostname != "gatehouse" {
		t.Errorf("%+v %v", c, err)
	}

	const on = "tailnet: {enabled: true}\n"
	for text, want := range map[string]string{
		"tailnet: {hostname: Gate.House}\n":                                  "no name such as gatehouse",
		"tailnet: {control: 'http://x.example'}\n":                           "no https URL",
		"tailnet: {auth_key: tskey-auth-x}\n":                                "unknown field auth_key",
		"login: {tailnet: {maps: {a@x.example: b}}}\n":                       "policies: does not have",
		"policies: {b: {}}\nlogin: {tailnet: {maps: {'*': b}}}\n":            "the gate is on no tailnet",
		on + "tls: {mode: files, cert: a, key: b}\n":                         "the certificate is the tailnet's",
		on + "listen: ['0.0.0.0:8443']\n":                                    "a port alone, such as :11434",
		on + "listen: [':0']\n":                                              "a port alone, such as :11434",
		on + "forward_auth: {listen: ':9644'}\n":                             "no other listener",
		on + "login: {client_certificates: {ca: x}}\n":                       "login.tailnet says who may enter",
		on + "login: {trusted_proxy: {header: A, from: [10.0.0.1]}}\n":       "nobody is believed for an address",
		on + "admin: 0.0.0.0:9643\n":                                         "not a loopback address",
		on + "login: {tailnet: {maps: {'*': reader}, map: {'*': reader}}}\n": "unknown field map",
	} {
		_, err := load(text, false)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestTailnetBuild: a program that was built without the tailnet says so.
func TestTailnetBuild(t *testing.T) {
	kept := joinTailnet
	t.Cleanup(func() { joinTailnet = kept })
	joinTailnet = nil
	code, out, errOut := gatehouse(t, "", "gate", "--tailnet", "--check-config")
	if code != exitUsage || out != "" || errOut != "gatehouse: this gatehouse was built without the tailnet\nhint: make build TAGS=tailnet builds one with it\n" {
		t.Errorf("%d %q %q", code, out, errOut)
	}
}
