package s3

import (
	"slices"
	"sort"
)

// entry is one key of a bucket with all its versions, the newest last.
type entry struct {
	key      string
	versions []*version
}

// latest returns the newest version, which may be a delete marker.
func (e *entry) latest() *version { return e.versions[len(e.versions)-1] }

// at returns the position of the version with the id, or -1; the empty id is
// the newest one's.
func (e *entry) at(id string) int {
	for i := len(e.versions) - 1; i >= 0; i-- {
		if id == "" || e.versions[i].id == id {
			return i
		}
	}
	return -1
}

// blockSize bounds a block of an index: small enough to insert into the middle
// of, large enough that a million keys make few blocks.
const blockSize = 512

// index holds the entries of a bucket in the order of their keys (S3's order:
// by bytes), in sorted blocks. Finding, inserting and removing take logarithmic
// time plus the move within one block.
type index struct {
	blocks [][]*entry // none is empty
}

// seek returns the position of the first entry whose key is not less than key.
func (x *index) seek(key string) (block, at int) {
	block = sort.Search(len(x.blocks), func(i int) bool {
		b := x.blocks[i]
		return b[len(b)-1].key >= key
	})
	if block == len(x.blocks) {
		return block, 0
	}
	b := x.blocks[block]
	return block, sort.Search(len(b), func(i int) bool { return b[i].key >= key })
}

// get returns the entry with the key, or nil.
func (x *index) get(key string) *entry {
	block, at := x.seek(key)
	if block == len(x.blocks) || x.blocks[block][at].key != key {
		return nil
	}
	return x.blocks[block][at]
}

// add returns the entry with the key, which it inserts where there is none.
func (x *index) add(key string) *entry {
	block, at := x.seek(key)
	if block < len(x.blocks) && x.blocks[block][at].key == key {
		return x.blocks[block][at]
	}
	e := &entry{key: key}
	switch {
	case len(x.blocks) == 0:
		x.blocks = [][]*entry{{e}}
		return e
	case block == len(x.blocks): // after all others: append to the last block
		block--
		at = len(x.blocks[block])
	}
	b := slices.Insert(x.blocks[block], at, e)
	if len(b) <= blockSize {
		x.blocks[block] = b
		return e
	}
	half := len(b) / 2
	if at == len(b)-1 { // keys that come in order fill the blocks
		half = len(b) - 1
	}
	x.blocks[block] = slices.Clip(b[:half])
	x.blocks = slices.Insert(x.blocks, block+1, slices.Clone(b[half:]))
	return e
}

// remove removes the entry with the key.
func (x *index) remove(key string) {
	block, at := x.seek(key)
	if block == len(x.blocks) || x.blocks[block][at].key != key {
		return
	}
	if x.blocks[block] = slices.Delete(x.blocks[block], at, at+1); len(x.blocks[block]) == 0 {
		x.blocks = slices.Delete(x.blocks, block, block+1)
	}
}

// cursor walks an index in the order of the keys. It is valid until the index changes.
type cursor struct {
	index     *index
	block, at int
}

// from returns a cursor at the first entry whose key is not less than key.
func (x *index) from(key string) cursor {
	block, at := x.seek(key)
	return cursor{x, block, at}
}

// next returns the entry at the cursor and moves on; nil at the end.
func (c *cursor) next() *entry {
	if c.block >= len(c.index.blocks) {
		return nil
	}
	b := c.index.blocks[c.block]
	e := b[c.at]
	if c.at++; c.at == len(b) {
		c.block, c.at = c.block+1, 0
	}
	return e
}

// after returns the smallest key that is greater than every key with the
// prefix, and false where there is none.
func after(prefix string) (string, bool) {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1}), true
		}
	}
	return "", false
}
