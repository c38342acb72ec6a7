package state

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrDone says that the work of a claim has been done already.
var ErrDone = errors.New("already done")

// HeldError says that another holder has the claim and may still be working.
type HeldError struct {
	// After is the remaining time of the claim: try again then.
	After time.Duration
}

// Error includes the remaining time of the claim.
func (e *HeldError) Error() string {
	return fmt.Sprintf("claimed by somebody else for another %s", e.After.Round(time.Second))
}

// Claim is the right to do something that the whole fleet should do once. It
// ends with Done or Release, or expires. If another worker has taken over an
// expired claim, Done and Release return ErrConflict.
type Claim struct {
	store     *Store
	key, etag string
}

// claimDocument is the document behind a Claim. Its age is S3's LastModified
// compared with S3's own clock, so the clocks of the fleet do not matter.
type claimDocument struct {
	// Done is set permanently when the work is done.
	Done bool `json:"done"`
	// Seconds is how long a claim that is not done lasts.
	Seconds int `json:"seconds"`
}

// Schema names the document.
func (*claimDocument) Schema() (string, int) { return "claim", 1 }

// Claim claims key for ttl (whole seconds, at least one). It takes over an expired
// claim. Errors: ErrDone if the work has been done, a *HeldError (errors.As) if
// another holder's claim has not expired, ErrNewerSchema.
func (s *Store) Claim(ctx context.Context, key string, ttl time.Duration) (*Claim, error) {
	return s.ClaimAgain(ctx, key, ttl, 0)
}

// ClaimAgain is Claim for work that may be repeated: it returns ErrDone only if the
// work was done less than again ago; 0 means that it is never repeated.
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
	if errors.Is(err, ErrNotFound) { // released just now, or removed by a lifecycle rule
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
	if errors.Is(err, ErrConflict) { // another worker was faster
		return nil, &HeldError{After: ttl}
	}
	if err != nil {
		return nil, err
	}
	return &Claim{s, key, etag}, nil
}

// IsDone reports whether the work of the claim at key has been done.
func (s *Store) IsDone(ctx context.Context, key string) (bool, error) {
	var doc claimDocument
	_, err := s.Get(ctx, key, &doc)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return doc.Done, err
}

// Done records permanently that the work is done. Errors: ErrConflict if the claim
// had expired and another worker has taken it over.
func (c *Claim) Done(ctx context.Context) error {
	etag, err := c.store.Put(ctx, c.key, &claimDocument{Done: true}, c.etag)
	if err != nil {
		return err
	}
	c.etag = etag
	return nil
}

// Release gives up the claim without the work being done, so that the next caller
// gets it at once. Errors: ErrConflict if another worker has taken it over.
func (c *Claim) Release(ctx context.Context) error {
	return c.store.Delete(ctx, c.key, c.etag)
}
