package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// authority is the gate's own certificate authority, for gates that have no
// certificate from elsewhere. Its key stays in the state folder, readable by
// its owner alone, and may sign for nothing but servers.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer

	mu     sync.Mutex
	names  []string
	serves *tls.Certificate
}

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 90 * 24 * time.Hour // renewed when a third is left
)

// openAuthority loads the authority in dir, or makes it.
func openAuthority(dir string, names []string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &authority{dir: dir, names: names}
	certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	switch {
	case err == nil:
		a.cert = pair.Leaf
		signer, ok := pair.PrivateKey.(crypto.Signer)
		if !ok || a.cert == nil || !a.cert.IsCA {
			return nil, fmt.Errorf("%s is no certificate authority", certFile)
		}
		a.key = signer
		return a, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the certificate authority in %s: %w", dir, err)
	}
	if err := a.make(certFile, keyFile); err != nil {
		return nil, fmt.Errorf("make a certificate authority in %s: %w", dir, err)
	}
	return a, nil
}

func (a *authority) make(certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Gatehouse on " + host},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	// The key first: a certificate without one would be taken for whole.
	if err := writeNew(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return err
	}
	if err := writeNew(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	a.cert, err = x509.ParseCertificate(der)
	a.key = key
	return err
}

// writeNew writes a file whole or not at all.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fingerprint is how people compare the authority: SHA-256 of its public key,
// as OpenSSH writes its own.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// certificate signs a server's certificate when there is none that will do.
// The names are the gate's; a caller by address gets one for that address.
func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var local netip.Addr
	if hello.Conn != nil {
		if tcp, ok := hello.Conn.LocalAddr().(*net.TCPAddr); ok {
			local = tcp.AddrPort().Addr().Unmap().WithZone("")
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.serves != nil && time.Until(a.serves.Leaf.NotAfter) > serverLife/3 && covers(a.serves.Leaf, local) {
		return a.serves, nil
	}
	cert, err := a.sign(local)
	if err != nil {
		return nil, err
	}
	a.serves = cert
	return cert, nil
}

func covers(cert *x509.Certificate, addr netip.Addr) bool {
	return !addr.IsValid() || slices.ContainsFunc(cert.IPAddresses, func(ip net.IP) bool { return ip.Equal(addr.AsSlice()) })
}

// sign makes a certificate for the gate's names and all addresses of this
// machine, and local if it is not among them.
func (a *authority) sign(local netip.Addr) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	addrs, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	if local.IsValid() && !slices.Contains(addrs, local) {
		addrs = append(addrs, local)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Gatehouse"},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.Add(serverLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
	}
	for _, name := range a.names {
		if ip, err := netip.ParseAddr(name); err == nil {
			addrs = append(addrs, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	// The authority goes along, so that gatehouse trust can fetch it.
	return &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// files serves a certificate from two files and takes up new ones when they
// change; files that do not fit together leave the old certificate in place.
type files struct {
	cert, key string
	log       func(error)

	mu     sync.Mutex
	loaded *tls.Certificate
	stamp  [2]time.Time
	looked time.Time
}

func openFiles(cert, key string, log func(error)) (*files, error) {
	f := &files{cert: cert, key: key, log: log}
	return f, f.load()
}

func (f *files) load() error {
	stamp, err := f.stat()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", f.cert, f.key, err)
	}
	f.loaded, f.stamp = &pair, stamp
	return nil
}

func (f *files) stat() (stamp [2]time.Time, err error) {
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return stamp, err
		}
		stamp[i] = info.ModTime()
	}
	return stamp, nil
}

// filesEvery is how often the files are looked at, at most.
const filesEvery = 5 * time.Second

func (f *files) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) > filesEvery {
		f.looked = now
		if stamp, err := f.stat(); err != nil || stamp != f.stamp {
			if err := f.load(); err != nil {
				f.log(err)
			}
		}
	}
	return f.loaded, nil
}
