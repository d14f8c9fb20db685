package harden

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gatehouse/internal/flock"
)

// A run of changes is a folder: plan.json, with every file as it was and as it will
// be, and journal, a line for each thing that was begun or done. Both are on the
// disk before what they tell of happens. So after a crash at any point each file is
// either the old or the new one, the journal says how far it came, and there is
// enough to go on or to go back.

// Keeper makes changes and takes them back.
type Keeper struct {
	Machine Machine
	Dir     string // where runs are kept
	// Do runs a command of a plan; what it prints goes to the caller where show is set.
	Do func(ctx context.Context, words []string, show bool) error
	// Told is called with what is done next. May be nil.
	Told func(what string)
	// at is called at each point at which a test may end the process.
	at func(point string)
}

// Run is one set of changes that were begun.
type Run struct {
	ID    string
	Steps []Step
	// Begun are the steps that were begun, Done those that were done.
	Begun, Done map[int]bool
	Finished    bool // it was verified
	Undone      bool // it was taken back, whole
	Undoing     bool

	dirs []string // folders that were made for it
}

// ErrInterrupted says that an earlier run was neither finished nor taken back.
var ErrInterrupted = errors.New("an earlier run was interrupted")

// ErrNothing says that there is nothing to take back.
var ErrNothing = errors.New("nothing was changed here that could be taken back")

func (k *Keeper) point(format string, args ...any) {
	if k.at != nil {
		k.at(fmt.Sprintf(format, args...))
	}
}

func (k *Keeper) told(format string, args ...any) {
	if k.Told != nil {
		k.Told(fmt.Sprintf(format, args...))
	}
}

// lock keeps others from changing the machine at the same time.
func (k *Keeper) lock() (release func(), err error) {
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(k.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock.Lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", k.Dir, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// Runs are those that were begun, the oldest first.
func (k *Keeper) Runs() (runs []Run, err error) {
	entries, err := os.ReadDir(k.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		r := Run{ID: e.Name(), Begun: map[int]bool{}, Done: map[int]bool{}}
		text, err := os.ReadFile(filepath.Join(k.Dir, e.Name(), "plan.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended before it had a plan: nothing was changed
		}
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &r.Steps); err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(k.Dir, e.Name(), "plan.json"), err)
		}
		if err := r.readJournal(filepath.Join(k.Dir, e.Name(), "journal")); err != nil {
			return nil, err
		}
		runs = append(runs, r)
	}
	return runs, nil
}

func (r *Run) readJournal(name string) error {
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// A line without an end was not on the disk whole: what it tells of did not begin.
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.Atoi(rest)
		switch word {
		case "begin":
			r.Begun[n] = true
		case "done":
			r.Done[n] = true
		case "folder":
			r.dirs = append(r.dirs, rest)
		case "finished":
			r.Finished = true
		case "undoing":
			r.Undoing = true
		case "undone":
			r.Undone = true
		}
	}
	return lines.Err()
}

// Pending is the run that was interrupted, nil when there is none.
func (k *Keeper) Pending() (*Run, error) {
	runs, err := k.Runs()
	if err != nil || len(runs) == 0 {
		return nil, err
	}
	last := runs[len(runs)-1]
	if last.Undone || last.Finished && !last.Undoing {
		return nil, nil
	}
	return &last, nil
}

// write puts a line into the journal, on the disk.
func (k *Keeper) write(r *Run, line string) error {
	f, err := os.OpenFile(filepath.Join(k.Dir, r.ID, "journal"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(f.Name())
	if err == nil {
		end := bytes.LastIndexByte(text, '\n') + 1
		_, err = f.WriteAt([]byte(line+"\n"), int64(end)) // over what a crash left of a line
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Apply makes the changes of a plan. It refuses while an earlier run is pending:
// [Keeper.Resume] goes on with it, [Keeper.Undo] takes it back.
func (k *Keeper) Apply(ctx context.Context, p *Plan) error {
	release, err := k.lock()
	if err != nil {
		return err
	}
	defer release()
	pending, err := k.Pending()
	if err != nil {
		return err
	}
	if pending != nil {
		return ErrInterrupted
	}
	runs, err := k.Runs()
	if err != nil {
		return err
	}
	next := 1
	if len(runs) > 0 {
		n, _ := strconv.Atoi(runs[len(runs)-1].ID)
		next = n + 1
	}
	r := &Run{ID: fmt.Sprintf("%04d", next), Steps: p.Steps, Begun: map[int]bool{}, Done: map[int]bool{}}
	dir := filepath.Join(k.Dir, r.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(p.Steps)
	if err != nil {
		return err
	}
	k.point("before the plan")
	if err := replace(filepath.Join(dir, "plan.json"), text, 0o600, nil, k.point); err != nil {
		return err
	}
	return k.forward(ctx, r)
}

// Resume goes on with the run that was interrupted.
func (k *Keeper) Resume(ctx context.Context) error {
	release, err := k.lock()
	if err != nil {
		return err
	}
	defer release()
	r, err := k.Pending()
	if err != nil || r == nil {
		return err
	}
	if r.Undoing {
		return k.back(ctx, r)
	}
	return k.forward(ctx, r)
}

// forward does the steps of a run that are not done.
func (k *Keeper) forward(ctx context.Context, r *Run) error {
	for i, s := range r.Steps {
		if r.Done[i] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.File != nil {
			if err := k.folders(r, s.File.Path); err != nil {
				return fmt.Errorf("%s: %w", s.File.Path, plain(err))
			}
		}
		if err := k.write(r, "begin "+strconv.Itoa(i)); err != nil {
			return err
		}
		k.point("step %d begun", i)
		if err := k.step(ctx, s); err != nil {
			return err
		}
		k.point("step %d made", i)
		if err := k.write(r, "done "+strconv.Itoa(i)); err != nil {
			return err
		}
		k.point("step %d done", i)
	}
	return nil
}

// Finish notes that the last run was verified.
func (k *Keeper) Finish() error {
	r, err := k.Pending()
	if err != nil || r == nil {
		return err
	}
	return k.write(r, "finished")
}

func (k *Keeper) step(ctx context.Context, s Step) error {
	if s.Run != nil {
		k.told("%s", strings.Join(s.Run.Do, " "))
		if err := k.Do(ctx, s.Run.Do, s.Run.Shows); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(s.Run.Do, " "), err)
		}
		return nil
	}
	now, err := k.now(s.File.Path)
	switch {
	case err != nil:
		return err
	case now.equal(s.File.After, true):
		return nil
	case !now.equal(s.File.Before, s.File.Is):
		return fmt.Errorf("%s: somebody else has changed it meanwhile", s.File.Path)
	}
	k.told("write %s", s.File.Path)
	if err := replace(k.Machine.real(s.File.Path), s.File.After, s.File.Mode, now.info, k.point); err != nil {
		return fmt.Errorf("%s: %w", s.File.Path, plain(err))
	}
	return nil
}

// state is a file as it is.
type state struct {
	text []byte
	is   bool
	info fs.FileInfo
}

func (s state) equal(text []byte, is bool) bool {
	return s.is == is && bytes.Equal(s.text, text)
}

func (k *Keeper) now(name string) (s state, err error) {
	real := k.Machine.real(name)
	if s.info, err = os.Stat(real); errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	}
	if err == nil {
		s.text, err = os.ReadFile(real)
	}
	s.is = true
	if err != nil {
		err = fmt.Errorf("%s: %w", name, plain(err))
	}
	return s, err
}

// folders makes those that a file of ours needs, and notes it first.
func (k *Keeper) folders(r *Run, name string) error {
	var missing []string
	for dir := filepath.Dir(k.Machine.real(name)); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		if err := k.write(r, "folder "+dir); err != nil {
			return err
		}
		r.dirs = append(r.dirs, dir)
		k.point("before folder %s", filepath.Base(dir))
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// beside is where the new text of a file is until it takes its place.
func beside(name string) string {
	return filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".gatehouse-new")
}

// replace has the file at name hold text, whole or not at all, with the mode and
// the owner that it had.
func replace(name string, text []byte, mode fs.FileMode, was fs.FileInfo, point func(string, ...any)) error {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real
	}
	temp := beside(name)
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a run that was ended
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	point("half of %s", filepath.Base(name))
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && was != nil {
		err = keepOwner(f, was)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	point("before %s", filepath.Base(name))
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	point("after %s", filepath.Base(name))
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	_ = d.Sync() // not every file system can
	return d.Close()
}

// Undo takes back the last run that was not. A file that somebody has changed since
// is left as it is, and named.
func (k *Keeper) Undo(ctx context.Context) error {
	release, err := k.lock()
	if err != nil {
		return err
	}
	defer release()
	runs, err := k.Runs()
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(runs) {
		if !r.Undone {
			return k.back(ctx, &r)
		}
	}
	return ErrNothing
}

// back takes a run back, and may be called again when it was ended on the way.
func (k *Keeper) back(ctx context.Context, r *Run) error {
	if err := k.write(r, "undoing"); err != nil {
		return err
	}
	k.point("undo begun")
	var errs []error
	for i, s := range slices.Backward(r.Steps) {
		switch {
		case s.File != nil:
			if err := k.restore(s.File); err != nil {
				errs = append(errs, err)
			}
		case r.Begun[i] && len(s.Run.Undo) > 0:
			k.told("%s", strings.Join(s.Run.Undo, " "))
			if err := k.Do(ctx, s.Run.Undo, false); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", strings.Join(s.Run.Undo, " "), err))
			}
		}
		k.point("undo of step %d", i)
	}
	for _, dir := range slices.Backward(r.dirs) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.told("%s stays: it is not empty", dir)
		}
		k.point("undo of folder %s", filepath.Base(dir))
	}
	for i, s := range r.Steps {
		if s.Run == nil || !r.Begun[i] || !s.Run.Again {
			continue
		}
		k.told("%s", strings.Join(s.Run.Do, " "))
		if err := k.Do(ctx, s.Run.Do, false); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", strings.Join(s.Run.Do, " "), err))
		}
		k.point("undo: step %d again", i)
	}
	for _, err := range errs {
		if !errors.Is(err, errTheirs) {
			return errors.Join(errs...)
		}
	}
	if err := k.write(r, "undone"); err != nil {
		return err
	}
	k.point("undone")
	return errors.Join(errs...)
}

// errTheirs marks a file that somebody has changed since: it is theirs now, so the
// run counts as taken back without it.
var errTheirs = errors.New("it was changed since, so it stays")

// restore gives a file its old text, or takes it away where there was none.
func (k *Keeper) restore(c *Change) error {
	real := k.Machine.real(c.Path)
	if err := os.Remove(beside(real)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", c.Path, plain(err))
	}
	now, err := k.now(c.Path)
	switch {
	case err != nil:
		return err
	case now.equal(c.Before, c.Is):
		return nil
	case !now.equal(c.After, true):
		return fmt.Errorf("%s: %w; what it was is in %s", c.Path, errTheirs, k.Dir)
	case !c.Is:
		k.told("remove %s", c.Path)
		if err := os.Remove(real); err != nil {
			return fmt.Errorf("%s: %w", c.Path, plain(err))
		}
		return syncDir(filepath.Dir(real))
	}
	k.told("restore %s", c.Path)
	if err := replace(real, c.Before, c.Mode, now.info, k.point); err != nil {
		return fmt.Errorf("%s: %w", c.Path, plain(err))
	}
	return nil
}
