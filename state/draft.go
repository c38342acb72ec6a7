package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Draft is a document between its last read or write and its next write: a working
// copy that can be changed in steps and is stored under the condition that nobody
// else has written meanwhile. It costs one read, and a write only where something
// changed. It is not safe for concurrent use.
type Draft[T any, P interface {
	*T
	Document
}] struct {
	store *Store
	key   string
	doc   T
	etag  string
	body  []byte // the document as it is stored, encoded without its head
	seen  int    // the last write that it includes, as turns numbers them
}

// Open reads the document at key; where there is none the draft has a zero one.
// Errors: ErrNewerSchema, and those of Get.
func Open[T any, P interface {
	*T
	Document
}](ctx context.Context, s *Store, key string) (*Draft[T, P], error) {
	d := &Draft[T, P]{store: s, key: key}
	return d, d.Reload(ctx)
}

// Doc is the working copy, to be read and changed. Reload, and a conflict in Update,
// change what it points to, so it never becomes outdated.
func (d *Draft[T, P]) Doc() P { return &d.doc }

// ETag is that of the document as it was last read or stored here, "" for none.
func (d *Draft[T, P]) ETag() string { return d.etag }

// Reload reads the document again and drops what was not saved. After an error the
// draft is as it was.
func (d *Draft[T, P]) Reload(ctx context.Context) error {
	doc, seen := new(T), d.store.turns.stored(d.key)
	etag, err := d.store.Get(ctx, d.key, P(doc))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode document %s: %w", d.store.Address(d.key), err)
	}
	d.doc, d.etag, d.body, d.seen = *doc, etag, body, seen
	return nil
}

// Save stores the working copy, unless it is as it is stored. ErrConflict: somebody
// else wrote the document; Reload, and decide again.
func (d *Draft[T, P]) Save(ctx context.Context) error {
	body, err := json.Marshal(d.Doc())
	if err != nil {
		return fmt.Errorf("encode document %s: %w", d.store.Address(d.key), err)
	}
	if bytes.Equal(body, d.body) {
		return nil
	}
	etag, err := d.store.Put(ctx, d.key, d.Doc(), d.etag)
	switch {
	case err == nil:
		d.etag, d.body, d.seen = etag, body, d.store.turns.note(d.key, etag, body)
	case errors.Is(err, ErrConflict):
		d.store.turns.contend(d.key)
	}
	return err
}

// Update applies change to the working copy and saves it; where somebody else has written
// the document it starts anew with that, and gives up with ErrConflict. change must depend
// on nothing but the document it is given, and be safe to apply twice.
func (d *Draft[T, P]) Update(ctx context.Context, change func(P)) error {
	return d.update(ctx, func() error {
		change(d.Doc())
		return nil
	})
}

// update is Update. An error of change ends it.
func (d *Draft[T, P]) update(ctx context.Context, change func() error) error {
	if err := change(); err != nil || !d.Changed() {
		return err
	}
	again, unlock, err := d.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return Retry(ctx, func() error {
		if again {
			if err := change(); err != nil {
				return err
			}
		}
		again = true
		return d.Save(ctx)
	}, d)
}
