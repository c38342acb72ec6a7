package reaction

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/retire"
	"github.com/cmkeeper/cmkeeper/state"
	"github.com/cmkeeper/cmkeeper/storage"
)

// Case is one occurrence and what is known about it. A fact is read when it is asked
// for, and once; one that could not be read is an error that says why, however often
// it is asked for. A case belongs to one goroutine, but for reading facts.
type Case struct {
	*Env
	Event events.Event
	// At is when the case began: the time that everything it reads stands for.
	At time.Time
	// Approved: a reaction found that the key's pending deletion is one that was approved.
	Approved bool

	key      fact[inventory.Key]
	rotation fact[inventory.Rotation]
	rotated  fact[time.Time]
	policy   fact[string]
	grants   fact[[]inventory.Grant]
	aliases  fact[[]inventory.Alias]
	tags     fact[map[string]string]
	usage    fact[inventory.Usage]
	uses     fact[[]dependents.Event]
	approval fact[*retire.Approval]
	stores   fact[[]inventory.KeyStore]
	ebs      fact[bool]
	storage  fact[storage.Look]
	account  *account
	others   map[string]*Case // by key

	ledger   document[ledger.Key, *ledger.Key]
	baseline document[ledger.Baseline, *ledger.Baseline]
	alias    document[ledger.Alias, *ledger.Alias]
	bucket   document[ledger.Bucket, *ledger.Bucket]
	own      document[ledger.Account, *ledger.Account]
	access   document[ledger.Access, *ledger.Access]
	review   document[ledger.AccessReview, *ledger.AccessReview]
	unstored error     // why the working copies cannot be stored
	shutOut  time.Time // ledger.Key.ShutOut, before the key was read
	unread   bool      // something of the key may still not be read
	awaits   bool      // CloudTrail's record of the event would change what was decided
	did      Did
}

// Did is what came of a case.
type Did struct {
	// Alerts are the severities of those that were told, again or for the first time.
	Alerts []finding.Severity
	// Repairs are the calls that changed a key.
	Repairs int
	// Acted: a reaction had something to do, whatever came of it.
	Acted bool
}

// Did is what came of the case so far.
func (c *Case) Did() Did { return c.did }

// account is what is known of the account. All cases of a sweep share it.
type account struct {
	aliases fact[[]inventory.Alias]
	buckets fact[[]inventory.Bucket]
	meeting fact[bool]
}

// NewCase begins the case of an event.
func (e *Env) NewCase(ev events.Event) *Case {
	return &Case{Env: e, Event: ev, At: ledger.Now(), account: new(account)}
}

// Part begins the case of one key, alias or bucket that a sweep looks at. Facts about
// the account are shared.
func (c *Case) Part(ev events.Event) *Case {
	return &Case{Env: c.Env, Event: ev, At: ledger.Now(), account: c.account}
}

// For is the case as far as it is about another key than the event's: the key that an
// alias moved to, or that a bucket is encrypted with.
func (c *Case) For(keyARN string) *Case {
	if keyARN == c.Event.KeyARN {
		return c
	}
	if c.others[keyARN] == nil {
		e := c.Event
		e.KeyARN = keyARN
		if c.others == nil {
			c.others = map[string]*Case{}
		}
		c.others[keyARN] = c.Part(e)
	}
	return c.others[keyARN]
}

// Log is the logger of the case. The id of its event is the context's, see package eventlog.
func (c *Case) Log() *slog.Logger {
	return c.Logger.With("event", c.Event.Name, "key", c.Event.KeyARN)
}

// Debug logs at debug level. It costs nothing while that is off.
func (c *Case) Debug(ctx context.Context, msg string, args ...any) {
	if c.Logger.Enabled(ctx, slog.LevelDebug) {
		c.Log().DebugContext(ctx, msg, args...)
	}
}

// IsSweep reports whether a sweep made the case, and no event.
func (c *Case) IsSweep() bool { return ledger.IsSweep(c.Event) }

// fact is something that is read at most once.
type fact[T any] struct {
	mu    sync.Mutex
	known bool
	value T
	err   error
	at    time.Time // before it was read
	// reading is closed when the read that is under way has ended; nil without one.
	reading chan struct{}
}

// get returns the fact, and reads it where that was not done before. A read that was
// cut short says nothing, and is made again.
func (f *fact[T]) get(ctx context.Context, name string, read func(context.Context, string) (T, error)) (T, error) {
	return f.readOnce(ctx, false, name, read)
}

// again reads the fact anew. Where that fails, nothing is known of it any more, and it
// is read once more when somebody asks for it: what one reaction failed to check must
// not keep another one from acting.
func (f *fact[T]) again(ctx context.Context, name string, read func(context.Context, string) (T, error)) (T, error) {
	return f.readOnce(ctx, true, name, read)
}

// readOnce reads the fact unless it is known and is not to be read anew. It waits for a
// read that is under way, no longer than ctx.
func (f *fact[T]) readOnce(ctx context.Context, anew bool, name string, read func(context.Context, string) (T, error)) (value T, err error) {
	f.mu.Lock()
	for f.reading != nil {
		reading := f.reading
		f.mu.Unlock()
		select {
		case <-reading:
		case <-ctx.Done():
			return value, context.Cause(ctx)
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	if f.known && !anew {
		return f.value, f.err
	}
	reading, at := make(chan struct{}), ledger.Now()
	f.reading = reading
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.value, f.err, f.at, f.reading = value, err, at, nil
		f.known = err == nil || !anew && ctx.Err() == nil
		close(reading)
	}()
	return read(ctx, name)
}

// set makes something that was read elsewhere, at that time, the fact.
func (f *fact[T]) set(value T, at time.Time) { f.known, f.value, f.err, f.at = true, value, nil, at }

// readAt is when the fact was read.
func (f *fact[T]) readAt() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// Key describes the event's key. Errors: inventory.ErrNotFound, inventory.ErrAccessDenied.
func (c *Case) Key(ctx context.Context) (inventory.Key, error) {
	return c.key.get(ctx, c.Event.KeyARN, c.Facts.Key)
}

// KeyAgain reads the key anew, to check what was done to it.
func (c *Case) KeyAgain(ctx context.Context) (inventory.Key, error) {
	return c.key.again(ctx, c.Event.KeyARN, c.Facts.Key)
}

// Rotation is the key's rotation status. Errors as for Key.
func (c *Case) Rotation(ctx context.Context) (inventory.Rotation, error) {
	return c.rotation.get(ctx, c.Event.KeyARN, c.Facts.Rotation)
}

// RotationAgain reads the rotation status anew.
func (c *Case) RotationAgain(ctx context.Context) (inventory.Rotation, error) {
	return c.rotation.again(ctx, c.Event.KeyARN, c.Facts.Rotation)
}

// LastRotation is when the key got new material for the last time, zero for never. Errors as
// for Key.
func (c *Case) LastRotation(ctx context.Context) (time.Time, error) {
	return c.rotated.get(ctx, c.Event.KeyARN, c.Facts.LastRotation)
}

// Policy is the key's policy document. Errors as for Key.
func (c *Case) Policy(ctx context.Context) (string, error) {
	return c.policy.get(ctx, c.Event.KeyARN, c.Facts.Policy)
}

// PolicyAgain reads the policy anew.
func (c *Case) PolicyAgain(ctx context.Context) (string, error) {
	return c.policy.again(ctx, c.Event.KeyARN, c.Facts.Policy)
}

// Grants are the key's grants. Errors as for Key.
func (c *Case) Grants(ctx context.Context) ([]inventory.Grant, error) {
	return c.grants.get(ctx, c.Event.KeyARN, c.Facts.Grants)
}

// KeyAliases are the aliases of the event's key. Errors as for Key.
func (c *Case) KeyAliases(ctx context.Context) ([]inventory.Alias, error) {
	return c.aliases.get(ctx, c.Event.KeyARN, c.Facts.AliasesOf)
}

// SetKeyAliases makes aliases out of Aliases those of the key.
func (c *Case) SetKeyAliases(aliases []inventory.Alias) {
	c.aliases.set(aliases, c.account.aliases.readAt())
}

// Tags are the key's tags. Errors as for Key.
func (c *Case) Tags(ctx context.Context) (map[string]string, error) {
	return c.tags.get(ctx, c.Event.KeyARN, c.Facts.Tags)
}

// LastUsage is when the key was last used. Errors as for Key.
func (c *Case) LastUsage(ctx context.Context) (inventory.Usage, error) {
	return c.usage.get(ctx, c.Event.KeyARN, c.Facts.LastUsage)
}

// Approval is what cmkeeper retire schedule recorded of the key, nil for nothing.
func (c *Case) Approval(ctx context.Context) (*retire.Approval, error) {
	return c.approval.get(ctx, c.Event.KeyARN, func(ctx context.Context, key string) (*retire.Approval, error) {
		a, ok, err := retire.ReadApproval(ctx, c.State, key)
		if err != nil || !ok {
			return nil, err
		}
		return &a, nil
	})
}

// Aliases are all aliases of the account and Region, by name.
func (c *Case) Aliases(ctx context.Context) ([]inventory.Alias, error) {
	return c.account.aliases.get(ctx, "", func(ctx context.Context, _ string) ([]inventory.Alias, error) {
		aliases, err := c.Facts.Aliases(ctx)
		if err != nil {
			return nil, fmt.Errorf("list aliases: %w", err)
		}
		return aliases, nil
	})
}

// KeyStores are the custom key stores of the account and Region. Errors: inventory.ErrAccessDenied.
func (c *Case) KeyStores(ctx context.Context) ([]inventory.KeyStore, error) {
	return c.stores.get(ctx, "", func(ctx context.Context, _ string) ([]inventory.KeyStore, error) { return c.Facts.KeyStores(ctx) })
}

// EncryptedByDefault reports whether new EBS volumes are encrypted by default.
func (c *Case) EncryptedByDefault(ctx context.Context) (bool, error) {
	return c.ebs.get(ctx, "", func(ctx context.Context, _ string) (bool, error) {
		if c.EBS == nil {
			return false, errors.New("nobody asks EC2 here")
		}
		return c.EBS.EncryptedByDefault(ctx)
	})
}

// Storage is what AWS Config shows of how storage is encrypted. It takes a minute, and longer
// where tags are compared.
func (c *Case) Storage(ctx context.Context) (storage.Look, error) {
	return c.storage.get(ctx, "", func(ctx context.Context, _ string) (storage.Look, error) {
		return storage.Read(ctx, c.Resources, c.Facts, storage.Rules{Keys: c.Config.Posture, Region: c.Config.Region, Tags: c.Config.MatchTags})
	})
}

// Buckets are the Region's buckets: those that could be read, beside the error.
func (c *Case) Buckets(ctx context.Context) ([]inventory.Bucket, error) {
	return c.account.buckets.get(ctx, "", func(ctx context.Context, _ string) ([]inventory.Bucket, error) { return c.Facts.Buckets(ctx) })
}

// document is the draft of a stored document, opened when it is first asked for.
type document[T any, P interface {
	*T
	state.Document
}] struct {
	fact[*state.Draft[T, P]]
}

func (d *document[T, P]) open(ctx context.Context, s *state.Store, name, what string) (P, error) {
	draft, err := d.get(ctx, name, func(ctx context.Context, name string) (*state.Draft[T, P], error) {
		draft, err := state.Open[T, P](ctx, s, name)
		if err != nil {
			return nil, fmt.Errorf("read document of %s: %w", what, err)
		}
		return draft, nil
	})
	if err != nil {
		return nil, err
	}
	return draft.Doc(), nil
}

func (d *document[T, P]) save(ctx context.Context) error {
	if d.value == nil {
		return nil
	}
	return d.value.Save(ctx)
}

// Reload implements what state.Retry asks for.
func (d *document[T, P]) Reload(ctx context.Context) error {
	if d.value == nil {
		return nil
	}
	return d.value.Reload(ctx)
}

func (d *document[T, P]) etag(listed string) string {
	if d.value == nil {
		return listed
	}
	return d.value.ETag()
}

func (d *document[T, P]) update(ctx context.Context, change func(P)) error {
	if change == nil {
		return nil
	}
	if d.value == nil {
		return errors.New("the document was not opened")
	}
	return d.value.Update(ctx, change)
}

// Ledger is the working copy of the document of the event's key. Deciding changes it.
func (c *Case) Ledger(ctx context.Context) (*ledger.Key, error) {
	if c.unstored != nil {
		return nil, c.unstored
	}
	return c.open(ctx)
}

func (c *Case) open(ctx context.Context) (*ledger.Key, error) {
	return c.ledger.open(ctx, c.State, ledger.KeyName(c.Event.KeyARN), "key "+c.Event.KeyARN)
}

// Known is the key's document as it is at hand: a zero one where it could not be
// read. It is for texts, never for a decision.
func (c *Case) Known() *ledger.Key {
	if c.ledger.value == nil {
		return new(ledger.Key)
	}
	return c.ledger.value.Doc()
}

// Update changes the document of the event's key and stores it. change must be safe
// to apply twice.
func (c *Case) Update(ctx context.Context, change func(*ledger.Key)) error {
	if _, err := c.Ledger(ctx); err != nil {
		return err
	}
	if err := c.ledger.update(ctx, change); err != nil {
		return fmt.Errorf("update document of key %s: %w", c.Event.KeyARN, err)
	}
	return nil
}

// Baseline is what is recorded of the key's policies.
func (c *Case) Baseline(ctx context.Context) (*ledger.Baseline, error) {
	return c.baseline.open(ctx, c.State, ledger.BaselineName(c.Event.KeyARN), "recorded policies of key "+c.Event.KeyARN)
}

// UpdateBaseline changes what is recorded of the key's policies and stores it.
func (c *Case) UpdateBaseline(ctx context.Context, change func(*ledger.Baseline)) error {
	if _, err := c.Baseline(ctx); err != nil {
		return err
	}
	err := c.baseline.update(ctx, func(b *ledger.Baseline) {
		if change(b); len(b.Versions) > 0 {
			b.Key = c.Event.KeyARN
		}
	})
	if err != nil {
		return fmt.Errorf("record policy of key %s: %w", c.Event.KeyARN, err)
	}
	return nil
}

// AliasLedger is the working copy of the document of the event's alias.
func (c *Case) AliasLedger(ctx context.Context) (*ledger.Alias, error) {
	if c.unstored != nil {
		return nil, c.unstored
	}
	return c.alias.open(ctx, c.State, ledger.AliasName(c.Event.Alias), c.Event.Alias)
}

// BucketLedger is the working copy of the document of the bucket that the case is
// about.
func (c *Case) BucketLedger(ctx context.Context, name string) (*ledger.Bucket, error) {
	if c.unstored != nil {
		return nil, c.unstored
	}
	return c.bucket.open(ctx, c.State, ledger.BucketName(name), "bucket "+name)
}

// AccessLedger is the working copy of the document of what access reviews found of the
// event's key.
func (c *Case) AccessLedger(ctx context.Context) (*ledger.Access, error) {
	if c.unstored != nil {
		return nil, c.unstored
	}
	return c.access.open(ctx, c.State, ledger.AccessName(c.Event.KeyARN), "who may use key "+c.Event.KeyARN)
}

// ReviewLedger is the working copy of the document of the account's access reviews.
func (c *Case) ReviewLedger(ctx context.Context) (*ledger.AccessReview, error) {
	if c.unstored != nil {
		return nil, c.unstored
	}
	return c.review.open(ctx, c.State, ledger.AccessReviewName, "the access reviews")
}

// KeyETags are the ETags of the documents of the event's key, as the case last read or
// stored them; of one that it did not open, the one that was listed.
func (c *Case) KeyETags(document, baseline string) (string, string) {
	return c.ledger.etag(document), c.baseline.etag(baseline)
}

// AliasETag is that of the document of the event's alias, as KeyETags are.
func (c *Case) AliasETag(listed string) string { return c.alias.etag(listed) }

// AliasWaits reports whether the document of the event's alias says that something about it
// is not over, also where it was not read.
func (c *Case) AliasWaits() bool { return c.alias.value == nil || c.alias.value.Doc().Waits() }

// AliasKnown returns what the state bucket knows of any alias; one that it does not
// know is a zero document.
func (e *Env) AliasKnown(ctx context.Context, name string) (ledger.Alias, error) {
	var doc ledger.Alias
	if _, err := e.State.Get(ctx, ledger.AliasName(name), &doc); err != nil && !errors.Is(err, state.ErrNotFound) {
		return ledger.Alias{}, fmt.Errorf("read document of %s: %w", name, err)
	}
	return doc, nil
}

// store stores the working copies that deciding has changed. ErrConflict: another
// worker was faster, and everybody has to decide again.
func (c *Case) store(ctx context.Context) error {
	return errors.Join(c.ledger.save(ctx), c.alias.save(ctx), c.bucket.save(ctx), c.own.save(ctx), c.access.save(ctx), c.review.save(ctx))
}

// Reload reads the documents again, and leaves the live facts as they are.
func (c *Case) Reload(ctx context.Context) error {
	return errors.Join(c.ledger.Reload(ctx), c.alias.Reload(ctx), c.bucket.Reload(ctx), c.own.Reload(ctx), c.access.Reload(ctx), c.review.Reload(ctx), c.baseline.Reload(ctx))
}

// Unreadable reports whether an error says that trying again would not help to read
// a key.
func Unreadable(err error) bool {
	return errors.Is(err, inventory.ErrNotFound) || errors.Is(err, inventory.ErrAccessDenied)
}

// Look returns the event's key and what is known of it. A key that may not be read
// has its ARN only. It is for reactions that only alert. Errors: inventory.ErrNotFound.
func (c *Case) Look(ctx context.Context) (inventory.Key, *ledger.Key, error) {
	key, err := c.Key(ctx)
	if errors.Is(err, inventory.ErrAccessDenied) {
		key, err = inventory.Key{ARN: c.Event.KeyARN}, nil
	}
	if err != nil {
		return key, nil, err
	}
	doc, err := c.open(ctx)
	return key, doc, err
}

// See notes the key in its document as the case has read it.
func (c *Case) See(doc *ledger.Key, key inventory.Key) {
	c.shutOut = cmp.Or(doc.ShutOut, c.shutOut) // its policy may still not be read
	c.see(doc, key, c.At)
}

func (c *Case) see(doc *ledger.Key, key inventory.Key, at time.Time) {
	doc.See(key.ARN, key.Description, key.State, at, c.Config.Deletion != Enforce)
	if c.unread {
		doc.NoteShutOut(c.shutOut)
	}
}

// KeyRead is the key as it was last read; a zero one where it was not.
func (c *Case) KeyRead() inventory.Key { return c.key.value }
