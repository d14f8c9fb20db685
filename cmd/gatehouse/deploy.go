package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gatehouse/internal/deploy"
)

type deployCmd struct {
	Format string `arg:"" help:"One of: ${deployments}."`

	Domain        string   `help:"Name or address that clients use; the certificate comes by ACME. Without it it is self-signed." placeholder:"NAME"`
	Email         string   `help:"Of the ACME account." placeholder:"MAIL"`
	Port          uint16   `help:"Port that clients use (default 443 with a domain or a proxy, else 8443)." placeholder:"PORT"`
	SSHPort       uint16   `name:"ssh-port" help:"Port that the firewall leaves open for you (default 22)." placeholder:"PORT"`
	GPU           string   `name:"gpu" help:"none, nvidia or amd (default none)." placeholder:"KIND"`
	Models        []string `help:"Models to pull at the first start." placeholder:"MODEL,…"`
	OllamaVersion string   `help:"Release of Ollama (default the newest that is known)." placeholder:"VERSION"`
	OllamaImage   string   `help:"Image of Ollama (default ollama/ollama, of that release)." placeholder:"IMAGE"`
	Image         string   `help:"Image of yours whose entrypoint is gatehouse." placeholder:"IMAGE"`
	BinaryURL     string   `help:"Where a new machine gets gatehouse from." placeholder:"URL"`
	SHA256        string   `name:"sha256" help:"Of what is at --binary-url." placeholder:"HEX"`
	ForwardAuth   bool     `help:"The proxy forwards to Ollama itself and asks the gate first: for those who need that."`
	Cert          string   `help:"File of the proxy's certificate." placeholder:"FILE"`
	Key           string   `help:"File of the certificate's private key." placeholder:"FILE"`
	Folder        string   `help:"Where HAProxy's Lua is installed (default /etc/haproxy)." placeholder:"DIR"`

	Out string `short:"o" help:"Folder to write the files to, or a .tgz; needed where there are several." placeholder:"PATH"`
}

func (deployCmd) Help() string {
	var b strings.Builder
	b.WriteString("Writes what puts the gate in front of an Ollama that nobody else can reach. Nothing is installed, and no key is written: each file begins with what it does and what to do next.\n\n")
	for _, f := range deploy.Formats {
		fmt.Fprintf(&b, "  %-12s%s\n", f.Name, f.What)
	}
	b.WriteString("\nSuch as:\n  gatehouse deploy compose --domain ai.example.org > compose.yaml\n  gatehouse deploy nginx --domain ai.example.org > gatehouse.conf\n\nWhere providers take cloud-init's user data, docs/deploy.md says.")
	return b.String()
}

// deployments are the names of what can be written.
func deployments() string {
	var names []string
	for _, f := range deploy.Formats {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

func (c *deployCmd) Run(s streams) error {
	f, ok := deploy.Find(c.Format)
	if !ok {
		return usage(fmt.Errorf("%.100q is nothing that can be deployed", c.Format), "one of "+deployments())
	}
	files, err := f.Write(deploy.Options{
		Domain: c.Domain, Email: c.Email, Port: c.Port, SSH: c.SSHPort, GPU: c.GPU, Models: c.Models,
		OllamaVersion: c.OllamaVersion, OllamaImage: c.OllamaImage, Image: c.Image, BinaryURL: c.BinaryURL, SHA256: c.SHA256,
		ForwardAuth: c.ForwardAuth, Cert: c.Cert, Key: c.Key, Folder: c.Folder,
	})
	if m, ok := errors.AsType[*deploy.Mistake](err); ok {
		return usage(err, m.Hint)
	}
	if err != nil {
		return err
	}
	switch {
	case c.Out == "" && f.Single(files):
		_, err := fmt.Fprint(s.out, files[0].Text)
		return err
	case c.Out == "":
		return usage(fmt.Errorf("%s is several files", f.Name), "name a folder for them, or a .tgz: --out PATH")
	case strings.HasSuffix(c.Out, ".tgz"):
		packed, err := pack(files)
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.Out, packed, 0o644); err != nil {
			return usage(fmt.Errorf("--out: %w", err), "--out takes a file or folder that can be written")
		}
	default:
		for _, file := range files {
			at := filepath.Join(c.Out, filepath.FromSlash(file.Path))
			err := os.MkdirAll(filepath.Dir(at), 0o755)
			if err == nil {
				err = os.WriteFile(at, []byte(file.Text), file.Mode)
			}
			if err != nil {
				return usage(fmt.Errorf("--out: %w", err), "--out takes a file or folder that can be written")
			}
		}
	}
	_, err = fmt.Fprintf(s.err, "%d files in %s\n", len(files), c.Out)
	return err
}

// pack is the files as an archive, the same for the same files.
func pack(files []deploy.File) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Name: f.Path, Mode: int64(f.Mode), Size: int64(len(f.Text)), Typeflag: tar.TypeReg}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write([]byte(f.Text)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
