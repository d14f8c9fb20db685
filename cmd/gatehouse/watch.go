package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"gatehouse/internal/notice"
	"gatehouse/internal/report"
	"gatehouse/internal/scope"
	"gatehouse/internal/store"
	"gatehouse/internal/wave"
)

type watchCmd struct {
	Look   watchRunCmd    `cmd:"" name:"run" default:"withargs" help:"Look again and again, and tell what changed."`
	Status watchStatusCmd `cmd:"" help:"Show the watches, and what is not delivered."`
	Test   watchTestCmd   `cmd:"" help:"Send a test message to each channel."`
}

func (watchCmd) Help() string {
	return `run is what it does without a command: gatehouse watch run --help lists the flags.

Examples:
` + watchExamples
}

const watchExamples = `  gatehouse watch --scope acme.yaml --every 24h --notify-file channels
  gatehouse watch 192.168.1.0/24 --every 1h --notify ntfy://ntfy.sh/topic
  gatehouse watch --scope acme.yaml --once --notify mailto:ops@example.org \
    --smtp mail.example.org:587
  gatehouse watch status`

// Notices are the flags about who is told, and how.
type Notices struct {
	Notify            []string `help:"Whom to tell: webhook:https://…, slack://T…/B…/…, mailto:…, or an address as shoutrrr has it. Repeatable." placeholder:"ADDRESS" sep:"none" group:"Whom to tell:"`
	NotifyFile        string   `help:"File of such addresses, one a line: arguments are seen by every user of this machine." placeholder:"FILE" group:"Whom to tell:"`
	WebhookSecretFile string   `help:"File with the secret that webhooks are signed with, whsec_ and base64; or in GATEHOUSE_WEBHOOK_SECRET." placeholder:"FILE" group:"Whom to tell:"`
	SMTP              string   `name:"smtp" help:"Mail server for mailto:, host:port. Port 465 is TLS, others STARTTLS." placeholder:"SERVER" group:"Whom to tell:"`
	SMTPUser          string   `name:"smtp-user" help:"Name to log in with there." placeholder:"NAME" group:"Whom to tell:"`
	SMTPPasswordFile  string   `name:"smtp-password-file" help:"File with the password; or in GATEHOUSE_SMTP_PASSWORD." placeholder:"FILE" group:"Whom to tell:"`
	MailFrom          string   `help:"Sender of the mail (default: the scope's contact)." placeholder:"ADDRESS" group:"Whom to tell:"`
}

// makeSecret makes a secret for webhooks, and gives it.
const makeSecret = "echo whsec_$(head -c 32 /dev/urandom | base64 -w0) > secret; --webhook-secret-file secret"

// channels are those that the flags name.
func (n *Notices) channels(contact string) ([]*notice.Channel, error) {
	var addresses []string
	for _, a := range n.Notify {
		addresses = append(addresses, strings.Fields(a)...)
	}
	if n.NotifyFile != "" {
		text, err := readFile(n.NotifyFile)
		if err != nil {
			return nil, usage(err, "--notify-file takes a file with one address a line")
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				addresses = append(addresses, line)
			}
		}
	}
	o := notice.Options{UserAgent: "Gatehouse/" + strings.TrimPrefix(versionString(), "v")}
	secret, err := secretOf(n.WebhookSecretFile, "webhook-secret-file", "GATEHOUSE_WEBHOOK_SECRET")
	if err != nil {
		return nil, err
	}
	if secret != "" {
		if o.Secret, err = notice.ParseSecret(secret); err != nil {
			return nil, usage(fmt.Errorf("the webhooks' secret: %w", err), "such as: "+makeSecret)
		}
	}
	password, err := secretOf(n.SMTPPasswordFile, "smtp-password-file", "GATEHOUSE_SMTP_PASSWORD")
	if err != nil {
		return nil, err
	}
	o.Mail = notice.Mail{Server: n.SMTP, From: cmp.Or(n.MailFrom, strings.TrimPrefix(contact, "mailto:")), User: n.SMTPUser, Password: password}
	var list []*notice.Channel
	for _, a := range addresses {
		kind, _, _ := strings.Cut(a, ":")
		if kind == "webhook" && o.Secret == nil {
			return nil, usage(errors.New("webhook: without a secret nobody knows who sent it"), "put one into a file: "+makeSecret)
		}
		c, err := notice.Parse(a, o)
		switch {
		case errors.Is(err, notice.ErrScheme):
			return nil, usage(fmt.Errorf("--notify: %w", err), "webhook:, slack:, mailto:, "+strings.Join(notice.Services, ":, ")+":")
		case errors.Is(err, notice.ErrSender):
			return nil, usage(fmt.Errorf("--notify: %w", err), "--mail-from names the sender; the scope's contact is taken otherwise")
		case errors.Is(err, notice.ErrServer):
			return nil, usage(fmt.Errorf("--notify: %w", err), "--smtp mail.example.org:587 names the server")
		case err != nil:
			return nil, usage(fmt.Errorf("--notify: %w", err), "see gatehouse watch run --help")
		case !slices.ContainsFunc(list, func(o *notice.Channel) bool { return o.Name == c.Name }):
			list = append(list, c)
		}
	}
	return list, nil
}

// secretOf reads a secret from a file, or from the environment.
func secretOf(file, flag, variable string) (string, error) {
	if file == "" {
		return os.Getenv(variable), nil
	}
	text, err := readFile(file)
	if err != nil {
		return "", usage(err, "--"+flag+" takes a file with the secret alone")
	}
	return strings.TrimSpace(string(text)), nil
}

type watchRunCmd struct {
	Target []string `arg:"" optional:"" help:"What to look at, as gatehouse scan takes it."`

	Targets     []string `help:"File with targets, one a line. Repeatable." placeholder:"FILE" sep:"none" group:"What to look at:"`
	Scope       string   `help:"Scope file: what may be looked at, and by whose authority. It is read anew before each wave." placeholder:"FILE" group:"What to look at:"`
	Exclude     []string `help:"Address or network never to touch. Repeatable." placeholder:"CIDR" group:"What to look at:"`
	ExcludeFile []string `help:"File of addresses and networks never to touch. Repeatable." placeholder:"FILE" sep:"none" group:"What to look at:"`
	Ports       []uint16 `short:"p" help:"Ports where a target names none (default: the scope's, else 11434)." placeholder:"PORT" group:"What to look at:"`

	Every     span   `help:"How long from one wave to the next." default:"24h" placeholder:"TIME" group:"When:"`
	Jitter    string `help:"By how much of that a wave comes earlier or later." default:"10%" placeholder:"SHARE" group:"When:"`
	Once      bool   `help:"One wave now, tell what changed, and end: for cron." group:"When:"`
	GoneAfter int    `help:"In how many waves in a row a server is not seen before it counts as gone." default:"2" placeholder:"K" group:"When:"`

	Notices `embed:""`
	Looks   `embed:"" group:"How to look:"`
	Owners  `embed:"" group:"Who runs it:"`

	Retention span   `help:"Delete waves of this scope that are older, such as 730d." placeholder:"TIME" group:"What to keep:"`
	StateDir  string `help:"Where waves are kept." placeholder:"DIR" group:"What to keep:"`
	Stores    `embed:"" group:"What to keep:"`
	Quiet     bool `short:"q" help:"No progress line."`
}

func (watchRunCmd) Help() string {
	return `Looks at the same places again and again, keeps each wave, and tells of servers that are new, reopened or fixed: one message a wave, none when there is nothing new. What is not delivered is kept and tried again, for three days.

Examples:
` + watchExamples
}

func (c *watchRunCmd) scan() *scanCmd {
	return &scanCmd{
		Target: c.Target, Targets: c.Targets, Scope: c.Scope, Exclude: c.Exclude, ExcludeFile: c.ExcludeFile, Ports: c.Ports,
		Looks: c.Looks, Owners: c.Owners, Outputs: Outputs{Format: "table", FailOn: "never", Quiet: c.Quiet},
		Saving: Saving{Save: true, Look: 1, Every: time.Minute, Retention: c.Retention, StateDir: c.StateDir, Stores: c.Stores},
	}
}

func (c *watchRunCmd) schedule() (s wave.Schedule, err error) {
	s.Every = time.Duration(c.Every)
	if s.Every < time.Second || s.Every > 366*24*time.Hour {
		return s, usage(fmt.Errorf("--every %s is not between 1s and 366d", s.Every), "such as --every 24h")
	}
	text, percent := strings.CutSuffix(c.Jitter, "%")
	share, err := strconv.ParseFloat(text, 64)
	if percent {
		share /= 100
	}
	if err != nil || !(share >= 0 && share <= 0.5) {
		return s, usage(fmt.Errorf("--jitter %s is not between 0%% and 50%%", c.Jitter), "such as --jitter 10%")
	}
	s.Jitter = share
	return s, nil
}

func (c *watchRunCmd) Run(ctx context.Context, s streams) (err error) {
	schedule, err := c.schedule()
	if err != nil {
		return err
	}
	if c.GoneAfter < 1 {
		return usage(fmt.Errorf("--gone-after %d is none", c.GoneAfter), "try --gone-after 2")
	}
	if c.Scope == "" && len(c.Target)+len(c.Targets) == 0 {
		return usage(errors.New("nothing to watch"), "--scope FILE names what may be looked at, or give targets: gatehouse watch 192.168.1.0/24")
	}
	if slices.Contains(c.Target, "-") {
		return usage(errors.New("a watch cannot take its targets from standard input"), "--targets takes a file")
	}
	scoped := ""
	name, contact := "local "+shortHash(fmt.Sprint(c.Target, c.Targets, c.Ports)), c.Contact
	if c.Scope != "" {
		sc, err := readScope(c.Scope)
		if err != nil {
			return err
		}
		scoped = sc.Name
		name, contact = cmp.Or(sc.Name, c.Scope), cmp.Or(contact, sc.Contact)
	}
	channels, err := c.channels(contact)
	if err != nil {
		return err
	}
	// A mistake in the rest is told at once; a scope that expired is told to all.
	covers := ""
	if j, err := c.scan().prepare(ctx, streams{in: s.in, out: s.out, err: s.err}); err == nil {
		covers = j.covers
		if err := j.owners.Close(); err != nil {
			return err
		}
	} else if !errors.Is(err, scope.ErrExpired) {
		return err
	}
	st, err := openState(c.StateDir, &c.Stores)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	unlock, err := st.Lock("watch " + name)
	if errors.Is(err, store.ErrInUse) {
		return usage(fmt.Errorf("watch %s: %w", name, store.ErrInUse), "a watch of the same scope is running; gatehouse watch status shows it")
	}
	if err != nil {
		return err
	}
	defer unlock()

	stop, release := stops()
	defer release()
	w := &watcher{
		name: name, scope: scoped, schedule: schedule, covers: covers, store: st, goneAfter: c.GoneAfter, once: c.Once, out: s,
		courier: &notice.Courier{Box: st.Box(name), Channels: channels, Log: func(line string) {
			fmt.Fprintf(s.err, "gatehouse: %s\n", report.Clean(line))
		}},
		look: func(ctx context.Context) (string, error) { return c.look(ctx, s) },
	}
	for _, ch := range channels {
		w.channels = append(w.channels, ch.Name)
	}
	return w.run(ctx, stop)
}

// look makes one wave, and returns which places it was over.
func (c *watchRunCmd) look(ctx context.Context, s streams) (covers string, err error) {
	j, err := c.scan().prepare(ctx, s)
	if err != nil {
		return "", err
	}
	defer j.owners.Close()
	j.finish = func(wave.Summary, report.Hosts) error { return nil }
	return j.covers, j.run(ctx)
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:4])
}

// stops closes the channel at the first Ctrl-C. A wave that is being made sees
// it for itself, and finishes what is in flight.
func stops() (stop chan struct{}, release func()) {
	stop = make(chan struct{})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-signals:
			close(stop)
		case <-done:
		}
	})
	return stop, func() {
		signal.Stop(signals)
		close(done)
		wg.Wait()
	}
}

// watcher runs the waves of one watch and tells of them. All that it has to know
// when it starts again is in the store.
type watcher struct {
	name      string
	scope     string // of the scope file; "" without one
	schedule  wave.Schedule
	covers    string // what the last wave was over; "" where the scope has expired
	store     *store.Store
	goneAfter int
	once      bool
	out       streams
	channels  []string
	courier   *notice.Courier
	look      func(context.Context) (covers string, err error)
	wake      chan struct{}
}

// busyPause is how long a watch waits for another scan of its scope.
const busyPause = time.Minute

func (w *watcher) run(ctx context.Context, stop <-chan struct{}) error {
	w.wake = make(chan struct{}, 1)
	mail, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if !w.once {
		wg.Go(func() { w.courier.Run(mail, w.wake) })
	}
	defer wg.Wait()
	defer cancel()
	if w.once {
		return w.onceOnly(ctx, stop)
	}
	// What ended before a crash and was not told of.
	if due, err := w.due(); err != nil {
		return err
	} else if due.After(time.Now()) {
		if err := w.tell(); err != nil {
			return err
		}
	}
	for {
		due, err := w.due()
		if err != nil {
			return err
		}
		if left := time.Until(due); left > 0 {
			w.say("%s: next wave at %s", w.name, due.UTC().Format("2006-01-02 15:04:05 UTC"))
			if !sleep(ctx, stop, left) {
				return codeError(exitStopped)
			}
		}
		err = w.turn(ctx)
		if code, ok := errors.AsType[codeError](err); ok && int(code) == exitStopped {
			return err
		}
		if errors.Is(err, errBusy) {
			w.say("%s: %v; looking again in %s", w.name, err, busyPause)
			if !sleep(ctx, stop, busyPause) {
				return codeError(exitStopped)
			}
			continue
		}
		if err != nil {
			if err := w.failed(err); err != nil {
				return err
			}
		}
		select {
		case <-stop:
			return codeError(exitStopped)
		case <-ctx.Done():
			return codeError(exitStopped)
		default:
		}
	}
}

func sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
	case <-ctx.Done():
	}
	return false
}

func (w *watcher) onceOnly(ctx context.Context, stop <-chan struct{}) error {
	err := w.turn(ctx)
	if _, ok := errors.AsType[codeError](err); ok {
		return err
	}
	if err != nil && !errors.Is(err, errBusy) {
		err = errors.Join(err, w.record(err))
	}
	deliver, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-stop:
			cancel()
		case <-deliver.Done():
		}
	})
	defer wg.Wait()
	defer cancel()
	if _, e := w.courier.Round(deliver); e != nil {
		err = errors.Join(err, e)
	}
	left, e := w.courier.Box.Waiting()
	if e == nil && len(left) > 0 {
		e = fmt.Errorf("%d messages are not delivered yet; they are kept, and the next run tries again", len(left))
	}
	return errors.Join(err, e)
}

// due is when the next wave begins.
func (w *watcher) due() (time.Time, error) {
	kept, err := w.store.Watch(w.name)
	if err != nil {
		return time.Time{}, err
	}
	if kept.Failures > 0 {
		return w.schedule.Retry(kept.Failures, kept.Failed), nil
	}
	last, err := w.last(false)
	if err != nil || last == nil || last.Ended.IsZero() {
		return time.Time{}, err // one that did not come to its end is gone on with
	}
	return w.schedule.Next(last.Name, last.Started), nil
}

// last is the newest wave over these places, or the newest that ended.
func (w *watcher) last(ended bool) (*wave.Info, error) {
	if w.covers == "" {
		return nil, nil
	}
	list, err := w.store.Waves("")
	if err != nil {
		return nil, err
	}
	for _, i := range slices.Backward(list) {
		old := i.Ended.IsZero() && time.Since(i.Started) >= store.MaxAge
		if i.Source == "scan" && i.Covers == w.covers && !old && (!ended || i.Tally != nil) {
			return &i, nil
		}
	}
	return nil, nil
}

var errBusy = errors.New("another scan of the same scope is running")

// turn makes one wave and tells of it.
func (w *watcher) turn(ctx context.Context) error {
	same := func(i *wave.Info) bool { return i.Covers == w.covers || w.scope != "" && i.Scope == w.scope }
	if running, err := w.store.Running(same); err != nil {
		return err
	} else if running != nil {
		return fmt.Errorf("%w: wave %d", errBusy, running.Number)
	}
	covers, err := w.look(ctx)
	if errors.Is(err, store.ErrInUse) {
		return errBusy
	}
	if err != nil {
		return err
	}
	w.covers = covers
	return w.tell()
}

// tell compares the newest wave that ended with the one that was told of last,
// and puts what is new into the box.
func (w *watcher) tell() error {
	kept, err := w.store.Watch(w.name)
	if err != nil {
		return err
	}
	now, err := w.last(true)
	if err != nil || now == nil {
		return err
	}
	news := kept.Told != now.Number
	var m *notice.Message
	line := "nothing new"
	if news {
		if m, line, err = w.message(now, kept.Told); err != nil {
			return err
		}
	}
	kept.Every, kept.Told, kept.Failures, kept.Failed, kept.Trouble = w.schedule.Every, now.Number, 0, time.Time{}, ""
	kept.Next = w.schedule.Next(now.Name, now.Started)
	if err := w.store.KeepWatch(kept, m, w.channels); err != nil {
		return err
	}
	if news {
		fmt.Fprintf(w.out.out, "%s  wave %d of %s: %d open; %s\n", now.Ended.Format("2006-01-02 15:04"), now.Number, report.Clean(now.Scope), now.Tally.Open, line)
	}
	w.awake()
	return nil
}

func (w *watcher) awake() {
	select {
	case w.wake <- struct{}{}:
	default: // it was told already
	}
}

// message is what there is to tell of a wave, nil for nothing.
func (w *watcher) message(now *wave.Info, told int64) (m *notice.Message, line string, err error) {
	data := watchData{Scope: now.Scope, Wave: now.Number, Started: now.Started, Open: now.Tally.Open}
	m = &notice.Message{ID: "gatehouse-" + now.Name, Made: time.Now().UTC()}
	before, err := w.store.Wave(strconv.FormatInt(told, 10))
	if err != nil && !errors.Is(err, store.ErrNoWave) {
		return nil, "", err
	}
	if err != nil || before.Tally == nil || before.Covers != now.Covers {
		m.Type, line = "wave.first", "the first over these places"
		m.Title = fmt.Sprintf("Gatehouse: %d open in %s", now.Tally.Open, report.Clean(now.Scope))
		m.Text = report.FirstNews(now)
		data.Show = fmt.Sprintf("gatehouse wave show %d", now.Number)
	} else {
		is, err := w.store.Excused(time.Now())
		if err != nil {
			return nil, "", err
		}
		news := report.News{Excused: is}
		if _, err := compare(w.store, &before, now, wave.CompareOptions{Looks: w.goneAfter, Limit: -1, Each: news.Add}); err != nil {
			return nil, "", err
		}
		line = news.Line()
		if !news.Any() {
			return nil, line, nil
		}
		m.Type, m.Title, m.Text = "wave.changed", fmt.Sprintf("Gatehouse: %s in %s", line, report.Clean(now.Scope)), news.Text(&before, now)
		data.Since, data.OpenBefore, data.Counts, data.Hosts = before.Number, &before.Tally.Open, news.Counts, news.Hosts()
		data.Show = fmt.Sprintf("gatehouse wave diff %d %d --format jsonl", before.Number, now.Number)
	}
	m.Data, err = json.Marshal(&data, json.Deterministic(true))
	return m, line, err
}

// watchData is what programs are told. The names are a contract.
type watchData struct {
	Scope      string                           `json:"scope"`
	Wave       int64                            `json:"wave"`
	Started    time.Time                        `json:"started"`
	Open       uint64                           `json:"open"`
	Since      int64                            `json:"since,omitzero"` // the wave that it is compared with
	OpenBefore *uint64                          `json:"open_before,omitzero"`
	Counts     map[wave.Event]int               `json:"counts,omitzero"`
	Hosts      map[wave.Event][]report.NewsHost `json:"hosts,omitzero"` // the first of each
	Show       string                           `json:"show"`           // the command that has them all
}

// failed says that a wave failed, and when the next try is.
func (w *watcher) failed(err error) error {
	if err := w.record(err); err != nil {
		return err
	}
	next, e := w.due()
	if e != nil {
		return e
	}
	fmt.Fprintf(w.out.err, "gatehouse: %s: %s; next try at %s\n", report.Clean(w.name), report.Clean(err.Error()), next.UTC().Format("15:04:05 UTC"))
	w.awake()
	return nil
}

// record keeps a failure. The first in a row is told.
func (w *watcher) record(failure error) error {
	kept, err := w.store.Watch(w.name)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	text := report.Clean(failure.Error())
	var m *notice.Message
	if kept.Failures == 0 {
		m = &notice.Message{
			ID: "gatehouse-" + shortHash(w.name) + "-failed-" + strconv.FormatInt(now.UnixMilli(), 36), Made: now, Type: "watch.failed",
			Title: "Gatehouse cannot look at " + report.Clean(w.name),
			Text:  text + "\n\nIt is tried again, and this is told once. See: gatehouse watch status\n",
		}
		if m.Data, err = json.Marshal(map[string]string{"scope": w.name, "error": text}, json.Deterministic(true)); err != nil {
			return err
		}
	}
	kept.Every, kept.Failures, kept.Failed, kept.Trouble = w.schedule.Every, kept.Failures+1, now, text
	kept.Next = w.schedule.Retry(kept.Failures, now)
	return w.store.KeepWatch(kept, m, w.channels)
}

func (w *watcher) say(format string, a ...any) {
	fmt.Fprintf(w.out.err, "gatehouse: %s\n", report.Clean(fmt.Sprintf(format, a...)))
}

type watchStatusCmd struct {
	StateDir string `help:"Where waves are kept." placeholder:"DIR"`
	Stores   `embed:""`
}

func (c *watchStatusCmd) Run(s streams) error {
	return withStore(c.StateDir, &c.Stores, func(st *store.Store) error {
		list, err := st.Watches()
		if err != nil {
			return err
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(s.out, "There is no watch. Begin one with: gatehouse watch --scope scope.yaml")
			return err
		}
		for _, w := range list {
			running := "not running"
			unlock, err := st.Lock("watch " + w.Name)
			switch {
			case errors.Is(err, store.ErrInUse):
				running = "running"
			case err != nil:
				return err
			default:
				if err := unlock(); err != nil {
					return err
				}
			}
			fmt.Fprintf(s.out, "%s: %s, every %s\n", report.Clean(w.Name), running, w.Every)
			if w.Told > 0 {
				fmt.Fprintf(s.out, "  last told of   wave %d\n", w.Told)
			}
			fmt.Fprintf(s.out, "  next wave      %s\n", w.Next.Format("2006-01-02 15:04 UTC"))
			if w.Trouble != "" {
				fmt.Fprintf(s.out, "  failed         %d in a row, the last %s\n                 %s\n", w.Failures, w.Failed.Format("2006-01-02 15:04 UTC"), report.Clean(w.Trouble))
			}
			letters, err := st.Box(w.Name).Letters()
			if err != nil {
				return err
			}
			delivered := 0
			for _, l := range letters {
				if l.State == notice.Delivered {
					delivered++
					continue
				}
				fmt.Fprintf(s.out, "  %-14s %s: %s\n", l.State, report.Clean(l.Channel), report.Clean(l.Title))
				if l.Said != "" {
					fmt.Fprintf(s.out, "                 %d tries: %s\n", l.Tries, report.Clean(l.Said))
				}
			}
			fmt.Fprintf(s.out, "  delivered      %d\n", delivered)
		}
		return nil
	})
}

type watchTestCmd struct {
	Notices `embed:""`
}

func (c *watchTestCmd) Run(ctx context.Context, s streams) error {
	channels, err := c.channels("")
	if err != nil {
		return err
	}
	if len(channels) == 0 {
		return usage(errors.New("nobody to tell"), "--notify names whom, such as --notify slack://T…/B…/…")
	}
	now := time.Now().UTC()
	m := notice.Message{
		ID: "gatehouse-test-" + strconv.FormatInt(now.UnixNano(), 36), Made: now, Type: "watch.test",
		Title: "Gatehouse: a test", Text: "This is how Gatehouse tells of new, reopened and fixed servers.\n", Data: []byte(`{}`),
	}
	var errs []error
	for _, ch := range channels {
		if err := ch.Send(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", ch.Name, err))
			continue
		}
		fmt.Fprintf(s.out, "%s: delivered\n", report.Clean(ch.Name))
	}
	return errors.Join(errs...)
}
