package s3

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
)

const maxPage = 1000

// limitOf reads a page size: 1000 where none is given, and never more.
func limitOf(name, value string) (int, error) {
	if value == "" {
		return maxPage, nil
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 0 {
		return 0, invalidArgument(name, value, "Provided "+name+" not an integer or within integer range")
	}
	return min(int(n), maxPage), nil
}

// listing is what all listings of a bucket have in common.
type listing struct {
	prefix, delimiter string
	limit             int
	encode            func(string) string // of keys, prefixes and markers
	encoding          string
}

func (c *call) listing(limit string) (listing, error) {
	l := listing{prefix: c.query.Get("prefix"), delimiter: c.query.Get("delimiter"), encoding: c.query.Get("encoding-type"), encode: func(s string) string { return s }}
	switch l.encoding {
	case "":
	case "url":
		l.encode = encodeKey
	default:
		return l, invalidArgument("encoding-type", l.encoding, "Invalid Encoding Method specified in Request")
	}
	var err error
	l.limit, err = limitOf(limit, c.query.Get(limit))
	return l, err
}

// encodeKey encodes as encoding-type=url does: like a form, except for the slash.
func encodeKey(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(url.QueryEscape(key), "%2F", "/"), "%2A", "*")
}

// group returns the common prefix that a key, which has the listing's prefix,
// belongs to, or "".
func (l listing) group(key string) string {
	if l.delimiter == "" {
		return ""
	}
	if i := strings.Index(key[len(l.prefix):], l.delimiter); i >= 0 {
		return key[:len(l.prefix)+i+len(l.delimiter)]
	}
	return ""
}

// from returns the smallest key that a listing behind marker (a key, or a common
// prefix that was shown) may show, and false where nothing is left.
func (l listing) from(marker string) (string, bool) {
	switch {
	case marker == "" || marker < l.prefix:
		return l.prefix, true
	case !strings.HasPrefix(marker, l.prefix):
		return "", false
	case l.group(marker) == marker:
		return after(marker)
	}
	return marker + "\x00", true
}

// item is one line of a listing: a version of a key, or a common prefix.
type item struct {
	key     string
	version *version // nil for a common prefix
	latest  bool
}

// items lists from a key on. shown returns the versions of an entry that the
// listing has, in their order. truncated reports that there is more.
func (l listing) items(x *index, from string, shown func(e *entry) []item) (list []item, truncated bool) {
	if l.limit == 0 {
		return nil, false
	}
	cur := x.from(from)
	for e := cur.next(); e != nil && strings.HasPrefix(e.key, l.prefix); e = cur.next() {
		more := shown(e)
		if len(more) == 0 {
			continue
		}
		g := l.group(e.key)
		if g != "" {
			more = []item{{key: g}}
		}
		if room := l.limit - len(list); len(more) > room {
			return append(list, more[:room]...), true
		}
		list = append(list, more...)
		if g == "" {
			continue
		}
		next, ok := after(g)
		if !ok {
			break
		}
		cur = x.from(next)
	}
	return list, false
}

// objects lists the current objects behind a marker.
func (b *bucket) list(l listing, marker string) (list []item, truncated bool) {
	from, ok := l.from(marker)
	if !ok {
		return nil, false
	}
	var one [1]item // an entry shows one item at most: no need to allocate it
	b.mu.RLock()
	defer b.mu.RUnlock()
	return l.items(&b.objects, from, func(e *entry) []item {
		v := e.latest()
		if v.marker {
			return nil
		}
		one[0] = item{key: e.key, version: v}
		return one[:]
	})
}

func (s *Service) listObjects(c *call) error {
	l, err := c.listing("max-keys")
	if err != nil {
		return err
	}
	marker := c.query.Get("marker")
	list, truncated := c.bucket.list(l, marker)
	d := c.beginList(l, "ListBucketResult", truncated)
	d.element("Marker", l.encode(marker))
	if truncated && l.delimiter != "" { // else the client goes on behind the last key
		d.element("NextMarker", l.encode(list[len(list)-1].key))
	}
	c.writeObjects(d, l, list, true)
	d.end("ListBucketResult")
	return c.xml(d)
}

func (s *Service) listObjectsV2(c *call) error {
	l, err := c.listing("max-keys")
	if err != nil {
		return err
	}
	startAfter, token := c.query.Get("start-after"), c.query.Get("continuation-token")
	marker := startAfter
	if c.query.Has("continuation-token") { // it wins
		raw, err := base64.URLEncoding.DecodeString(token)
		if err != nil || len(raw) == 0 {
			return invalidArgument("continuation-token", token, "The continuation token provided is incorrect")
		}
		marker = string(raw)
	}
	list, truncated := c.bucket.list(l, marker)
	d := c.beginList(l, "ListBucketResult", truncated)
	d.number("KeyCount", int64(len(list)))
	d.optional("StartAfter", l.encode(startAfter))
	d.optional("ContinuationToken", token)
	if truncated {
		d.element("NextContinuationToken", base64.URLEncoding.EncodeToString([]byte(list[len(list)-1].key)))
	}
	c.writeObjects(d, l, list, c.query.Get("fetch-owner") == "true")
	d.end("ListBucketResult")
	return c.xml(d)
}

// beginList begins an answer that lists objects or versions.
func (c *call) beginList(l listing, root string, truncated bool) *document {
	d := newDocument(root)
	d.element("Name", c.name)
	l.write(d, "MaxKeys", truncated)
	return d
}

// write adds what all listings tell.
func (l listing) write(d *document, limit string, truncated bool) {
	d.element("Prefix", l.encode(l.prefix))
	d.optional("Delimiter", l.encode(l.delimiter))
	d.optional("EncodingType", l.encoding)
	d.number(limit, int64(l.limit))
	d.boolean("IsTruncated", truncated)
}

func (c *call) writeObjects(d *document, l listing, list []item, owners bool) {
	restore := c.wantsRestoreStatus()
	for _, i := range list {
		if i.version == nil {
			continue
		}
		d.begin("Contents")
		d.element("Key", l.encode(i.key))
		i.version.write(d)
		if owners {
			owner(d, "Owner", c.bucket.owner)
		}
		if restore {
			i.version.restored.write(d)
		}
		d.end("Contents")
	}
	writeGroups(d, l, list)
}

func (c *call) wantsRestoreStatus() bool {
	return strings.Contains(c.header("X-Amz-Optional-Object-Attributes"), "RestoreStatus")
}

func writeGroups(d *document, l listing, list []item) {
	for _, i := range list {
		if i.version == nil {
			d.begin("CommonPrefixes")
			d.element("Prefix", l.encode(i.key))
			d.end("CommonPrefixes")
		}
	}
}

// write adds what a listing tells about a version.
func (v *version) write(d *document) {
	d.element("LastModified", v.modifiedTime().Format(isoTime))
	d.element("ETag", quote(v.etag))
	d.number("Size", v.size)
	d.element("StorageClass", v.storageClass)
	if v.checksum.algorithm != nil {
		d.element("ChecksumAlgorithm", v.checksum.algorithm.name)
		d.element("ChecksumType", v.checksum.kind())
	}
}

func (s *Service) listObjectVersions(c *call) error {
	l, err := c.listing("max-keys")
	if err != nil {
		return err
	}
	keyMarker, versionMarker := c.query.Get("key-marker"), c.query.Get("version-id-marker")
	_, known := sequenceOf(versionMarker)
	switch {
	case versionMarker == "":
	case keyMarker == "":
		return invalidArgument("version-id-marker", versionMarker, "A version-id marker cannot be specified without a key marker.")
	case !known && versionMarker != nullID:
		return invalidArgument("version-id-marker", versionMarker, "Invalid version id specified")
	}
	list, truncated := c.bucket.listVersions(l, keyMarker, versionMarker)
	d := c.beginList(l, "ListVersionsResult", truncated)
	d.element("KeyMarker", l.encode(keyMarker))
	d.element("VersionIdMarker", versionMarker)
	if truncated {
		last := list[len(list)-1]
		d.element("NextKeyMarker", l.encode(last.key))
		if last.version != nil {
			d.element("NextVersionIdMarker", last.version.id)
		}
	}
	restore := c.wantsRestoreStatus()
	for _, i := range list {
		if i.version == nil {
			continue
		}
		element := "Version"
		if i.version.marker {
			element = "DeleteMarker"
		}
		d.begin(element)
		d.element("Key", l.encode(i.key))
		d.element("VersionId", i.version.id)
		d.boolean("IsLatest", i.latest)
		if i.version.marker {
			d.element("LastModified", i.version.modifiedTime().Format(isoTime))
		} else {
			i.version.write(d)
			if restore {
				i.version.restored.write(d)
			}
		}
		owner(d, "Owner", c.bucket.owner)
		d.end(element)
	}
	writeGroups(d, l, list)
	d.end("ListVersionsResult")
	return c.xml(d)
}

// listVersions lists versions and delete markers behind a marker: by key, and
// the newest version of a key first.
func (b *bucket) listVersions(l listing, keyMarker, versionMarker string) (list []item, truncated bool) {
	from, ok := l.from(keyMarker)
	if versionMarker != "" && strings.HasPrefix(keyMarker, l.prefix) {
		from, ok = keyMarker, true // older versions of this key may be left
	}
	if !ok {
		return nil, false
	}
	var items []item
	b.mu.RLock()
	defer b.mu.RUnlock()
	return l.items(&b.objects, from, func(e *entry) []item {
		older := len(e.versions)
		if e.key == keyMarker && versionMarker != "" {
			older = e.before(versionMarker)
		}
		items = items[:0]
		for i := older - 1; i >= 0; i-- {
			items = append(items, item{key: e.key, version: e.versions[i], latest: i == len(e.versions)-1})
		}
		return items
	})
}

// before returns how many versions of the entry are older than the one with the
// id, which may be gone. Where a null version was is not known any more: then
// all are listed again, and none is missed.
func (e *entry) before(id string) int {
	if at := e.at(id); at >= 0 {
		return at
	}
	sequence, ok := sequenceOf(id)
	if !ok {
		return len(e.versions)
	}
	n := 0
	for n < len(e.versions) && e.versions[n].sequence < sequence {
		n++
	}
	return n
}
