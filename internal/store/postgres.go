package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresEngine keeps the store in PostgreSQL.
type postgresEngine struct {
	db, slow *sql.DB
}

const (
	// oldest is the first PostgreSQL that has all that is used.
	oldest = 13_00_00
	// postgresConns are the connections of one process: a wave and a watch hold one
	// each all the time.
	postgresConns = 10
)

// settings of a connection. A plan is made for the waves that are asked for, so
// that no other's partition is locked: a kept plan would lock them all. What is
// read comes from an index in its order, which workers side by side do not keep. The
// server ends what its client does not wait for any more, and finds within two
// minutes that a machine is gone, with its locks.
const (
	settings = `SET plan_cache_mode = force_custom_plan; SET lock_timeout = '5s'; SET random_page_cost = 1.1; SET jit = off; SET max_parallel_workers_per_gather = 0;
		SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 6; SET client_min_messages = error;`
	quickly = settings + `SET statement_timeout = '15s'; SET idle_in_transaction_session_timeout = '1min'`
	slowly  = settings + `SET statement_timeout = 0`
)

func openPostgres(dsn string) (*Store, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		// What pgx says may hold a part of a password that is not written as it should.
		return nil, fmt.Errorf("store: %q %w: it cannot be read", "postgres://…", ErrAddress)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "gatehouse"
	}
	e := &postgresEngine{}
	s := &Store{place: placeOf(config), engine: e, q: postgresDialect}
	e.db, e.slow = e.pool(config, quickly), e.pool(config, slowly)
	s.db, s.slow = e.db, e.slow
	if err := e.alone(s.begin); err != nil {
		_, _ = e.db.Close(), e.slow.Close() // the other error says more
		return nil, s.failed(err)
	}
	return s, nil
}

// restTime is how long a connection rests before it is asked whether it is still
// there: PostgreSQL takes longer to start again, and what it left behind would be
// the answer to the next question.
const restTime = 100 * time.Millisecond

// pool is database/sql's own: it is one less beside that of pgx, and Close does
// not wait for a connection that somebody has.
func (e *postgresEngine) pool(config *pgx.ConnConfig, with string) *sql.DB {
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		c.TypeMap().RegisterType(&pgtype.Type{Name: "text", OID: pgtype.TextOID, Codec: validText{}})
		_, err := c.Exec(ctx, with)
		return err
	}), stdlib.OptionShouldPing(func(_ context.Context, p stdlib.ShouldPingParams) bool {
		return p.IdleDuration > restTime
	}))
	db.SetMaxOpenConns(postgresConns)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxIdleTime(time.Minute)
	db.SetConnMaxLifetime(time.Hour)
	return db
}

// placeOf is where a store is, for people.
func placeOf(c *pgx.ConnConfig) string {
	u := url.URL{Scheme: "postgres", Path: "/" + c.Database}
	if strings.HasPrefix(c.Host, "/") { // the folder of a socket
		u.RawQuery = "host=" + c.Host
	} else {
		u.Host = c.Host
		if c.Port != 5432 {
			u.Host = net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
		}
	}
	return u.String()
}

// begin holds that the database is one for a store, and makes or updates it.
func (s *Store) begin(ctx context.Context) error {
	var version int
	var encoding string
	var schema sql.NullString
	err := s.db.QueryRowContext(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_schema()`).Scan(&version, &encoding, &schema)
	switch {
	case err != nil:
		return err
	case version < oldest:
		return fmt.Errorf("%w: it is PostgreSQL %d, and %d is the oldest that will do", ErrUnready, version/10000, oldest/10000)
	case encoding != "UTF8":
		return fmt.Errorf("%w: its encoding is %s, and UTF8 is needed", ErrUnready, encoding)
	case !schema.Valid:
		return fmt.Errorf("%w: the login's search_path names no schema that is there", ErrUnready)
	}
	return s.migrate(ctx)
}

// advisory is the number of a lock: two stores in two schemas of one database
// have each their own.
const advisory = `hashtextextended(current_schema() || ' gatehouse ' || $1, 0)`

func (e *postgresEngine) alone(what func(context.Context) error) error {
	// A migration of much may take long; the wait for it is bounded by lock_timeout.
	ctx := context.Background()
	conn, err := e.slow.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_lock(`+advisory+`)`, "open"); err != nil {
		return err
	}
	return errors.Join(what(ctx), unlock(conn, "open"))
}

// unlock lets a lock go. A connection that is gone has none any more, and one
// that does not do it is ended, and the lock with it.
func unlock(conn *sql.Conn, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if _, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock(`+advisory+`)`, name); err != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // closes it
	}
	return nil
}

// lock holds an advisory lock of a session on a connection of its own.
func (e *postgresEngine) lock(name string) (*lease, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	var mine bool
	if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock(`+advisory+`)`, name).Scan(&mine); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	if !mine {
		_ = conn.Close() // back to the pool
		return nil, ErrInUse
	}
	var once sync.Once
	return &lease{conn: conn, free: func() error {
		once.Do(func() {
			_ = unlock(conn, name) // the lock is gone in any case
			_ = conn.Close()       // back to the pool, or closed already
		})
		return nil
	}}, nil
}

// plain says in one line, and in words for people, what went wrong.
func (*postgresEngine) plain(err error) error {
	e := new(pgconn.PgError)
	if !errors.As(err, &e) {
		var network net.Error
		var connecting *pgconn.ConnectError
		switch {
		case errors.As(err, &connecting):
			return fmt.Errorf("%w: %s", ErrUnreachable, reason(connecting))
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
			errors.Is(err, net.ErrClosed), errors.As(err, &network), strings.Contains(err.Error(), "conn closed"), pgconn.Timeout(err):
			return fmt.Errorf("%w: the connection ended or gave no answer", ErrUnreachable)
		}
		return err
	}
	said := strings.Join(strings.Fields(e.Message), " ")
	kind := error(nil)
	switch e.Code {
	case "53100":
		return ErrFull
	case "25006":
		kind, said = ErrReadOnly, "PostgreSQL is read-only there, as a standby is"
	case "42501", "28000", "28P01":
		kind = ErrDenied
	case "3D000", "3F000":
		kind = ErrUnready
	case "55P03", "57014", "40P01", "40001", "25P03":
		kind = ErrBusy
	case "57P01", "57P02", "57P03", "57P05":
		kind = ErrUnreachable
	default:
		switch e.Code[:min(2, len(e.Code))] {
		case "08":
			kind = ErrUnreachable
		case "53": // out of connections, of memory
			kind = ErrBusy
		case "XX", "58":
			kind = ErrCorrupt
		default:
			return &saying{"PostgreSQL says: " + said, []error{e}}
		}
	}
	return &saying{kind.Error() + ": " + said, []error{kind, e}}
}

// saying is what PostgreSQL said in our words, and what it was.
type saying struct {
	text string
	of   []error
}

func (s *saying) Error() string   { return s.text }
func (s *saying) Unwrap() []error { return s.of }

// reason is why no connection came about, without the login and the addresses,
// which pgx puts before it, one line for each address.
func reason(err *pgconn.ConnectError) string {
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "there is no host " + dns.Name
	case errors.As(err, &op) && op.Err != nil:
		var sys interface{ Unwrap() error }
		if errors.As(op.Err, &sys) {
			return sys.Unwrap().Error() // the system's word alone
		}
		return op.Err.Error()
	case pgconn.Timeout(err):
		return "no answer in time"
	}
	line, _, _ := strings.Cut(err.Unwrap().Error(), "\n")
	if i := strings.LastIndex(line, "): "); i >= 0 {
		line = line[i+3:]
	}
	return line
}

var uniqueKeys = map[string]string{"keys_pkey": "id", "keys_name_key": "name", "keys_ed25519": "ed25519"}

func (*postgresEngine) taken(err error) string {
	e := new(pgconn.PgError)
	if !errors.As(err, &e) || e.Code != "23505" {
		return ""
	}
	return uniqueKeys[e.ConstraintName]
}

// validText writes a text as one that PostgreSQL takes: it has no room for a zero
// byte, nor for what is no UTF-8. What a host said is not kept as text; this is
// for what is searched, and for what people type.
type validText struct{ pgtype.TextCodec }

func (c validText) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(string); ok {
		return validTextPlan{}
	}
	return c.TextCodec.PlanEncode(m, oid, format, value)
}

type validTextPlan struct{}

func (validTextPlan) Encode(value any, buf []byte) ([]byte, error) {
	return append(buf, valid(value.(string))...), nil
}

func valid(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// each asks by a cursor of the server's: while rows come over a connection
// nothing else can be asked over it.
func (*postgresEngine) each(ctx context.Context, tx *sql.Tx, query string, args ...any) (cursor, error) {
	c := &pages{ctx: ctx, tx: tx, name: "page" + strconv.FormatUint(pageNumber.Add(1), 10)}
	_, err := tx.ExecContext(ctx, `DECLARE `+c.name+` NO SCROLL CURSOR FOR `+query, args...)
	return c, err
}

// pageNumber tells the cursors of a transaction apart.
var pageNumber atomic.Uint64

// pages are the rows of a cursor, some hundred at a time.
type pages struct {
	ctx  context.Context
	tx   *sql.Tx
	name string
	rows [][]any
	at   int
	err  error
}

const pageRows = 500

func (p *pages) Next() bool {
	if p.at++; p.at < len(p.rows) {
		return true
	}
	if p.err != nil || p.rows != nil && len(p.rows) < pageRows {
		return false
	}
	p.at, p.rows, p.err = 0, [][]any{}, nil
	rows, err := p.tx.QueryContext(p.ctx, `FETCH `+strconv.Itoa(pageRows)+` FROM `+p.name)
	if err != nil {
		p.err = err
		return false
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		p.err = err
		return false
	}
	for rows.Next() {
		row := make([]any, len(names))
		to := make([]any, len(names))
		for i := range row {
			to[i] = &row[i]
		}
		if p.err = rows.Scan(to...); p.err != nil {
			return false
		}
		p.rows = append(p.rows, row)
	}
	p.err = rows.Err()
	return p.err == nil && len(p.rows) > 0
}

func (p *pages) Scan(to ...any) error {
	row := p.rows[p.at]
	for i := range to {
		switch to := to[i].(type) {
		case *int64:
			n, ok := row[i].(int64)
			if !ok {
				return fmt.Errorf("column %d is %T, no number", i, row[i])
			}
			*to = n
		case *sql.RawBytes:
			b, _ := row[i].([]byte) // nil for NULL
			*to = b
		default:
			return fmt.Errorf("column %d: %T cannot be read into", i, to)
		}
	}
	return nil
}

func (p *pages) Err() error { return p.err }

// Close ends it. The end of the transaction would, too.
func (p *pages) Close() error {
	_, err := p.tx.ExecContext(p.ctx, `CLOSE `+p.name)
	return err
}

func (e *postgresEngine) sized(ctx context.Context, st *Status) error {
	st.Kind = "postgres"
	return e.slow.QueryRowContext(ctx, `SELECT current_setting('server_version'), COALESCE(sum(pg_total_relation_size(c.oid)), 0)
		FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'`).Scan(&st.Version, &st.Bytes)
}

// InPostgres reports whether an error is of a store in PostgreSQL.
func InPostgres(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.postgres
}
