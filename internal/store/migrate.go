package store

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

// Level is how far the tables of a store are.
type Level struct {
	At      int64  `json:"level"`            // of the last migration
	Was     int64  `json:"was"`              // before this process opened it; 0 when there was nothing
	Since   int64  `json:"since"`            // programs that know this level, or a later one, may use it
	Copying string `json:"copying,omitzero"` // what it is being filled from
}

const levelOf = `SELECT level, since, (SELECT source FROM copying) FROM compatible`

// migrations are those of an engine; a test has others.
func (s *Store) migrations() (fs.FS, error) { return fs.Sub(migrations, "migrations/"+s.q.kind) }

// migrate brings the tables up to date, while nobody else does.
func (s *Store) migrate(ctx context.Context) error {
	files, err := s.migrations()
	if err != nil {
		return err
	}
	return s.migrateBy(ctx, files)
}

func (s *Store) migrateBy(ctx context.Context, files fs.FS) error {
	dialect := database.DialectSQLite3
	if s.q.kind == "postgres" {
		dialect = database.DialectPostgres
	}
	provider, err := goose.NewProvider(dialect, s.slow, files)
	if err != nil {
		return err
	}
	latest := int64(0)
	for _, m := range provider.ListSources() {
		latest = max(latest, m.Version)
	}
	at, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	s.state.Was = at
	if at < latest {
		if _, err := provider.Up(ctx); err != nil {
			return err
		}
		at = latest
	}
	s.state.At = at
	return s.allowed(ctx, latest)
}

// allowed reads what the last migration said of earlier programs, of which this
// may be one.
func (s *Store) allowed(ctx context.Context, latest int64) error {
	var level int64
	var copying sql.NullString
	err := s.db.QueryRowContext(ctx, levelOf).Scan(&level, &s.state.Since, &copying)
	switch {
	case s.state.At < 4 && err != nil: // a test's
		return nil
	case err != nil && s.state.At <= latest:
		return err
	case err != nil, s.state.At > latest && (level != s.state.At || s.state.Since > latest):
		return fmt.Errorf("%w (version %d, this one knows %d)", ErrLater, s.state.At, latest)
	}
	s.state.Copying = copying.String
	return nil
}

// Level is how far the tables are.
func (s *Store) Level() Level { return s.state }
