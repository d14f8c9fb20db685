package harden

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	_ "modernc.org/sqlite" // reads the desktop app's settings
)

// desktopFiles are where the desktop app keeps its settings, below a home.
var desktopFiles = map[string]string{
	"linux":   ".ollama/db.sqlite",
	"darwin":  "Library/Application Support/Ollama/db.sqlite",
	"windows": "AppData/Local/Ollama/db.sqlite",
}

// readDesktop reads the switches of the desktop app: whether others in the network
// may come, and web pages. They are in no environment.
func (l *look) readDesktop() {
	below := desktopFiles[l.OS]
	if below == "" {
		return
	}
	for _, home := range l.homes() {
		file := path.Join(home, below)
		if !l.exists(file) {
			continue
		}
		expose, browser, err := desktop(l.ctx, l.real(file))
		if err != nil {
			do := "look at the settings in the app"
			l.unseen(file, firstLine(err.Error()), do)
			continue
		}
		l.Ollama = append(l.Ollama, "the desktop app")
		if expose {
			l.cause(Cause{
				Kind: DesktopExpose, Place: Place{File: file}, Says: "expose: on", Means: "the desktop app lets the network in", Doors: []Door{{Addr: netip.IPv6Unspecified(), Port: Port}},
				manual: `turn off "Expose Ollama to the network" in the app's settings`,
			})
		}
		if browser {
			l.cause(Cause{
				Kind: DesktopBrowser, Place: Place{File: file}, Says: "browser: on", Means: "the desktop app lets any web page call the API", Pages: true, Live: len(l.Listeners) > 0,
				manual: `turn off "Allow browser access" in the app's settings`,
			})
		}
	}
}

// maxDesktop bounds the app's database, which holds its chats too.
const maxDesktop = 256 << 20

// desktop reads a copy of the database and of the log beside it, in which the
// newest settings may be: the app may be running, and opening the database itself
// would leave files of ours in its folder.
func desktop(ctx context.Context, file string) (expose, browser bool, err error) {
	dir, err := os.MkdirTemp("", "gatehouse-")
	if err != nil {
		return false, false, err
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "db.sqlite")
	if err := copyFile(file, copied); err != nil {
		return false, false, plain(err)
	}
	if err := copyFile(file+"-wal", copied+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, false, plain(err)
	}
	db, err := sql.Open("sqlite", copied)
	if err != nil {
		return false, false, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, "select * from settings limit 1")
	if err != nil {
		return false, false, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return false, false, err
	}
	values := make([]any, len(columns))
	for i := range values {
		values[i] = new(any)
	}
	if rows.Next() {
		if err := rows.Scan(values...); err != nil {
			return false, false, err
		}
	}
	for i, c := range columns {
		on := isOn(*values[i].(*any))
		switch strings.ToLower(c) {
		case "expose":
			expose = on
		case "browser":
			browser = on
		}
	}
	return expose, browser, rows.Err()
}

func isOn(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case int64:
		return v != 0
	case string:
		return v == "1" || strings.EqualFold(v, "true")
	}
	return false
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxDesktop+1))
	if n > maxDesktop {
		err = fmt.Errorf("it is larger than %d bytes", maxDesktop)
	}
	return errors.Join(err, out.Close())
}
