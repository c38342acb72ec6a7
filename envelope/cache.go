package envelope

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync"
	"time"
)

// Cache bounds the data keys that are kept, so that KMS is not asked for each message.
// Either all are set or none, which means that no data key is kept.
//
// Each message has a key of its own, derived from the data key. But a data key that leaks
// opens all messages under it; until MaxAge has passed, a disabled KMS key and a
// withdrawn permission have no effect, and messages are sealed under the key that an alias
// pointed to before.
type Cache struct {
	// MaxAge is how long a data key is kept. Then it is wiped.
	MaxAge time.Duration
	// MaxMessages and MaxBytes are how many messages, and how much data, a data key is used
	// for. A longer message has a data key for itself; a stream's length is not known before,
	// and it ends under the data key that it began under.
	MaxMessages, MaxBytes int64
	// MaxEntries is how many data keys are kept, in the order of their last use. There is
	// one for each encryption context that is sealed with, and one for each wrapped key that
	// is opened.
	MaxEntries int
}

func (c Cache) valid() error {
	if c == (Cache{}) || c.MaxAge > 0 && c.MaxMessages > 0 && c.MaxBytes > 0 && c.MaxEntries > 0 {
		return nil
	}
	return errors.New("the cache lacks a bound: set MaxAge, MaxMessages, MaxBytes and MaxEntries all above zero, or none")
}

// Stats are the figures of a Sealer since it was made. Without the cache, each message
// would be a request: it has saved Hits + Shared of them.
type Stats struct {
	// Hits are messages whose data key the cache had. Shared are those that waited for a
	// request of another message.
	Hits, Shared uint64
	// GenerateDataKeys and Decrypts are the requests to KMS, as many as there were messages
	// that neither was the case for.
	GenerateDataKeys, Decrypts uint64
	// Entries is how many data keys there are now.
	Entries int
}

// dataKey is a data key in use for one message. It never leaves the package, and a Sealer
// has it behind more pointers than fmt follows.
type dataKey struct {
	secret  *[dataKeySize]byte
	wrapped []byte
	arn     string
	entry   *entry // nil where it is not cached
}

func (k *dataKey) wipe() { clear(k.secret[:]) }

// entry is a data key in the cache.
type entry struct {
	id              [sha256.Size]byte
	key             *dataKey
	born            time.Time
	expiry          *time.Timer
	messages, bytes int64
	used            uint64 // the cache's clock when it was used last
}

// request is one of KMS that others wait for.
type request struct {
	done chan struct{}
	err  error // nil where the waiting have to look again
}

// cache holds data keys by what they may be used for. It is for concurrent use.
type cache struct {
	limits Cache

	mu       sync.Mutex
	entries  map[[sha256.Size]byte]*entry
	requests map[[sha256.Size]byte]*request
	clock    uint64
	closed   bool
	stats    Stats
}

func newCache(limits Cache) *cache {
	return &cache{limits: limits, entries: map[[sha256.Size]byte]*entry{}, requests: map[[sha256.Size]byte]*request{}}
}

// cacheID names a data key by all that it depends on: a Sealer has one KMS key to seal with.
func cacheID(use string, parts ...[]byte) (id [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte(use))
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	h.Sum(id[:0])
	return id
}

// get returns a data key for a message of that size, for the caller to wipe: from the cache,
// by fetch, or as somebody's fetch brings it that is under way. An error of fetch is that of
// all who waited, unless it came from the context of the one who fetched.
func (c *cache) get(ctx context.Context, id [sha256.Size]byte, size int64, fetch func(context.Context) (*dataKey, error)) (*dataKey, error) {
	for waited := false; ; waited = true {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, errClosed
		}
		if c.limits == (Cache{}) {
			c.mu.Unlock()
			return fetch(ctx)
		}
		if k := c.take(id, size); k != nil {
			if waited {
				c.stats.Shared++
			} else {
				c.stats.Hits++
			}
			c.mu.Unlock()
			return k, nil
		}
		r := c.requests[id]
		if r == nil {
			r = &request{done: make(chan struct{})}
			c.requests[id] = r
			c.mu.Unlock()
			return c.fetch(ctx, id, size, r, fetch)
		}
		c.mu.Unlock()
		select {
		case <-r.done:
			if r.err != nil {
				return nil, r.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// fetch runs a request that others may wait for, and keeps its data key.
func (c *cache) fetch(ctx context.Context, id [sha256.Size]byte, size int64, r *request, fetch func(context.Context) (*dataKey, error)) (k *dataKey, err error) {
	defer func() { // also of a fetch that panics: nobody must wait for it for ever
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.requests, id)
		if err != nil && ctx.Err() == nil {
			r.err = err
		}
		if k != nil && !c.closed {
			k = c.use(c.add(id, k), size)
		}
		close(r.done)
	}()
	return fetch(ctx)
}

// add keeps a data key, and for it drops the one that was used the longest ago. It takes
// k over. The caller has the lock.
func (c *cache) add(id [sha256.Size]byte, k *dataKey) *entry {
	for len(c.entries) >= c.limits.MaxEntries {
		var oldest *entry
		for _, e := range c.entries {
			if oldest == nil || e.used < oldest.used {
				oldest = e
			}
		}
		c.evict(oldest)
	}
	e := &entry{id: id, key: k, born: time.Now()}
	e.expiry = time.AfterFunc(c.limits.MaxAge, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.evict(e)
	})
	c.entries[id] = e
	return e
}

// take returns a data key that may be used for a message of that size, nil where there is
// none. The caller has the lock.
func (c *cache) take(id [sha256.Size]byte, size int64) *dataKey {
	e := c.entries[id]
	if e == nil {
		return nil
	}
	// The timer may be late. A message that is too long for any data key gets a fresh one.
	if time.Since(e.born) >= c.limits.MaxAge || size > c.limits.MaxBytes-e.bytes {
		c.evict(e)
		return nil
	}
	return c.use(e, size)
}

// use returns a copy of the entry's data key and counts the message. The caller has the lock.
func (c *cache) use(e *entry, size int64) *dataKey {
	c.clock++
	e.used = c.clock
	secret := *e.key.secret
	k := &dataKey{secret: &secret, wrapped: e.key.wrapped, arn: e.key.arn, entry: e}
	e.messages++
	c.spend(e, size)
	return k
}

// spend counts bytes against an entry, and drops it where it is used up. The caller has
// the lock.
func (c *cache) spend(e *entry, n int64) {
	e.bytes += n
	if e.messages >= c.limits.MaxMessages || e.bytes >= c.limits.MaxBytes {
		c.evict(e)
	}
}

// evict drops an entry and wipes its data key; one that is not there any more is left
// alone. The caller has the lock.
func (c *cache) evict(e *entry) {
	if c.entries[e.id] != e {
		return
	}
	delete(c.entries, e.id)
	e.expiry.Stop()
	e.key.wipe()
}

// charge counts the bytes of a stream against its data key.
func (c *cache) charge(e *entry, n int64) {
	if e == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spend(e, n)
}

func (c *cache) count(figure *uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*figure++
}

func (c *cache) figures() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Entries = len(c.entries)
	return s
}

func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, e := range c.entries {
		c.evict(e)
	}
}
