package state

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrDone says that what the claim is for has been done.
var ErrDone = errors.New("already done")

// HeldError says that somebody else holds a claim and may still be at work.
type HeldError struct {
	// After is how long the claim still lasts: try again then.
	After time.Duration
}

// Error says how long the claim still lasts.
func (e *HeldError) Error() string {
	return fmt.Sprintf("claimed by somebody else for another %s", e.After.Round(time.Second))
}

// Claim is the right to do something that the whole fleet should do once. It
// ends with Done or Release, or by itself after its time; whoever held it then
// learns from Done that it was lost.
type Claim struct {
	store     *Store
	key, etag string
}

// claimDocument is the document behind a Claim. When it was made is S3's
// LastModified, judged by S3's own clock, so that the clocks of the fleet do not
// matter.
type claimDocument struct {
	// Done is set when the work is done, for good.
	Done bool `json:"done"`
	// Seconds is how long a claim that is not done lasts.
	Seconds int `json:"seconds"`
}

// Schema names the document.
func (*claimDocument) Schema() (string, int) { return "claim", 1 }

// Claim claims key for ttl (whole seconds, at least one). Errors: ErrDone where
// the work has been done, a *HeldError (errors.As) where somebody else is at it,
// ErrNewerSchema. A claim whose time is over is taken over.
func (s *Store) Claim(ctx context.Context, key string, ttl time.Duration) (*Claim, error) {
	return s.ClaimAgain(ctx, key, ttl, 0)
}

// ClaimAgain is Claim for work that is to be done again so long after it was done
// last; 0 is never.
func (s *Store) ClaimAgain(ctx context.Context, key string, ttl, again time.Duration) (*Claim, error) {
	doc := &claimDocument{Seconds: max(1, int(ttl/time.Second))}
	etag, err := s.Put(ctx, key, doc, "")
	if err == nil {
		return &Claim{s, key, etag}, nil
	}
	if !errors.Is(err, ErrConflict) {
		return nil, err
	}
	r, err := s.read(ctx, key)
	if errors.Is(err, ErrNotFound) { // released just now, or it expired by a lifecycle rule
		return nil, &HeldError{After: time.Second}
	}
	if err != nil {
		return nil, err
	}
	var held claimDocument
	if err := decode(r.body, &held); err != nil {
		return nil, fmt.Errorf("decode claim %s: %w", s.Address(key), err)
	}
	age := r.now.Sub(r.modified)
	if held.Done && (again == 0 || age < again) {
		return nil, ErrDone
	}
	if left := time.Duration(held.Seconds)*time.Second - age; left > 0 && !held.Done {
		return nil, &HeldError{After: left}
	}
	etag, err = s.Put(ctx, key, doc, r.etag)
	if errors.Is(err, ErrConflict) { // somebody was faster
		return nil, &HeldError{After: ttl}
	}
	if err != nil {
		return nil, err
	}
	return &Claim{s, key, etag}, nil
}

// IsDone reports whether what the claim at key is for has been done.
func (s *Store) IsDone(ctx context.Context, key string) (bool, error) {
	var doc claimDocument
	_, err := s.Get(ctx, key, &doc)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return doc.Done, err
}

// Done records for good that the work is done. ErrConflict: the claim had run
// out and somebody else has taken it.
func (c *Claim) Done(ctx context.Context) error {
	etag, err := c.store.Put(ctx, c.key, &claimDocument{Done: true}, c.etag)
	if err != nil {
		return err
	}
	c.etag = etag
	return nil
}

// Release gives the claim back with the work undone, so that the next one to ask
// gets it at once. ErrConflict: somebody else has taken it already.
func (c *Claim) Release(ctx context.Context) error {
	return c.store.Delete(ctx, c.key, c.etag)
}
