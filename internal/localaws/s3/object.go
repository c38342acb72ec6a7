package s3

import (
	"crypto/md5" //nolint:gosec // S3's ETags are MD5
	"encoding/hex"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// maxObject is the largest object that one PUT may store, and the largest part.
const maxObject = 5 << 30

// draft is everything that a write says about the object that it makes. The
// multipart operations keep it until the upload is complete.
type draft struct {
	metadata     *metadata
	tags         []tag
	storageClass string
	acl          *acl
	lock         lock
}

// draft reads what the headers of a write say. It asks for the further
// permissions that tags, an ACL and a lock need.
func (c *call) draft() (draft, error) {
	var d draft
	var err error
	if d.metadata, err = c.metadata(); err != nil {
		return d, err
	}
	if d.tags, err = c.taggingHeader(); err != nil {
		return d, err
	}
	if d.storageClass, err = c.storageClass(); err != nil {
		return d, err
	}
	if d.acl, err = c.aclHeaders(); err != nil {
		return d, err
	}
	d.lock, err = c.lockHeaders()
	return d, err
}

// metadata reads the metadata headers.
func (c *call) metadata() (*metadata, error) {
	m := &metadata{
		contentType: c.header("Content-Type"), cacheControl: c.header("Cache-Control"),
		contentDisposition: c.header("Content-Disposition"), contentEncoding: withoutChunked(c.header("Content-Encoding")),
		contentLanguage: c.header("Content-Language"), expires: c.header("Expires"),
		redirect: c.header("X-Amz-Website-Redirect-Location"),
	}
	if m.contentType == "" {
		m.contentType = "binary/octet-stream"
	}
	if m.redirect != "" && !strings.HasPrefix(m.redirect, "/") && !strings.HasPrefix(m.redirect, "http://") && !strings.HasPrefix(m.redirect, "https://") {
		return nil, wire.Errorf(400, "InvalidRedirectLocation", "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.")
	}
	size := 0
	for name, values := range c.r.Header {
		if !strings.HasPrefix(name, metaPrefix) {
			continue
		}
		if m.user == nil {
			m.user = map[string]string{}
		}
		// S3 decodes values as of RFC 2047 before it stores them, and encodes
		// them again where they are not US-ASCII (User Guide, "Working with
		// object metadata").
		value := strings.Join(values, ",")
		if decoded, err := new(mime.WordDecoder).DecodeHeader(value); err == nil {
			value = decoded
		}
		name = strings.ToLower(name[len(metaPrefix):])
		m.user[name] = value
		size += len(name) + len(value)
	}
	if size > 2048 {
		return nil, wire.Errorf(400, "MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
	}
	return m, nil
}

// withoutChunked removes aws-chunked from a content encoding: it belongs to the
// transfer, not to the object.
func withoutChunked(encoding string) string {
	if !strings.Contains(encoding, "aws-chunked") {
		return encoding
	}
	var kept []string
	for token := range strings.SplitSeq(encoding, ",") {
		if token = strings.TrimSpace(token); token != "aws-chunked" && token != "" {
			kept = append(kept, token)
		}
	}
	return strings.Join(kept, ",")
}

// describe sets the headers that give the metadata back.
func (m *metadata) describe(c *call) {
	c.set("Content-Type", m.contentType)
	c.set("Cache-Control", m.cacheControl)
	c.set("Content-Disposition", m.contentDisposition)
	c.set("Content-Encoding", m.contentEncoding)
	c.set("Content-Language", m.contentLanguage)
	c.set("Expires", m.expires)
	c.set("X-Amz-Website-Redirect-Location", m.redirect)
	for name, value := range m.user {
		// Encode leaves printable US-ASCII as it is. The name keeps its lower
		// case, as S3 sends it.
		c.w.Header()["x-amz-meta-"+name] = []string{mime.BEncoding.Encode("UTF-8", value)}
	}
}

// seal makes a version of an object of its bytes, under a new data key.
func (s *Service) seal(c *call, w wanted, data []byte, sum checksum, d draft) (*version, error) {
	dataKey := randomBytes(32)
	e, err := s.wrap(c.caller, c.name, c.key, w, dataKey)
	if err != nil {
		return nil, err
	}
	body, err := sealSegment(dataKey, 0, data)
	if err != nil {
		return nil, err
	}
	v := &version{size: int64(len(data)), segments: []segment{body}, encryption: e, checksum: sum}
	if v.etag = hex.EncodeToString(randomBytes(md5.Size)); e.kind == sseS3 {
		// Only these ETags are the MD5 of the data.
		md := md5.Sum(data) //nolint:gosec // S3's ETags are MD5
		v.etag = hex.EncodeToString(md[:])
	}
	v.apply(d)
	return v, nil
}

func (v *version) apply(d draft) {
	v.metadata, v.tags, v.storageClass, v.acl, v.lock = d.metadata, d.tags, d.storageClass, d.acl, d.lock
}

// open returns the bytes of an object. The caller needs the KMS key for it, and
// the customer's key where the object is under one.
func (s *Service) open(c *call, bucket, key string, v *version, customerKey []byte) ([]byte, error) {
	if err := v.checkReadable(); err != nil {
		return nil, err
	}
	dataKey, err := s.dataKey(c.caller, bucket, key, v.encryption, customerKey)
	if err != nil {
		return nil, err
	}
	return openSegments(dataKey, v.segments)
}

func (s *Service) putObject(c *call) error {
	cond, err := c.writeCondition()
	if err != nil {
		return err
	}
	d, err := c.draft()
	if err != nil {
		return err
	}
	want, err := c.wantedEncryption()
	if err != nil {
		return err
	}
	data, sum, err := c.payload(maxObject)
	if err != nil {
		return err
	}
	if err := d.lock.checkIntegrity(c, sum); err != nil {
		return err
	}
	if sum.algorithm == nil {
		sum = checksumOf(defaultAlgorithm, data)
	}
	v, err := s.seal(c, want, data, sum, d)
	if err != nil {
		return err
	}
	id, err := c.bucket.put(c.key, v, cond)
	if err != nil {
		return err
	}
	c.set("Etag", quote(v.etag))
	c.set("X-Amz-Version-Id", id)
	v.encryption.describe(c)
	v.encryption.describeContext(c)
	v.checksum.describe(c)
	return c.empty(http.StatusOK)
}

// version returns the version that a request is about. It tells a delete marker in
// the answer's headers, and hides what is missing from a caller who may not list.
func (c *call) version() (*version, error) {
	v, err := c.bucket.lookup(c.key, c.query.Get("versionId"))
	if err == nil {
		return v, nil
	}
	if v != nil { // a delete marker
		c.set("X-Amz-Delete-Marker", "true")
		c.setVersion(v)
		if wire.IsCode(err, "MethodNotAllowed") {
			c.set("Allow", "DELETE")
			c.set("Last-Modified", v.modifiedTime().Format(httpTime))
		}
		return nil, err
	}
	if denied := c.authorize("s3:ListBucket", c.name, ""); denied != nil && wire.IsCode(err, "NoSuchKey") {
		return nil, denied
	}
	return nil, err
}

// setVersion tells the version's id, unless the bucket never was versioned.
func (c *call) setVersion(v *version) {
	if v.id != nullID {
		c.set("X-Amz-Version-Id", v.id)
		return
	}
	c.bucket.mu.RLock()
	versioned := c.bucket.versioning != ""
	c.bucket.mu.RUnlock()
	if versioned {
		c.set("X-Amz-Version-Id", nullID)
	}
}

func (s *Service) headObject(c *call) error { return s.read(c, false) }

func (s *Service) getObject(c *call) error { return s.read(c, true) }

// overridable are the headers that a read may override (response-content-type=…).
var overridable = []string{"Content-Type", "Cache-Control", "Expires", "Content-Disposition", "Content-Encoding", "Content-Language"}

// read answers GetObject and HeadObject.
func (s *Service) read(c *call, body bool) error {
	v, err := c.version()
	if err != nil {
		return err
	}
	customerKey, err := c.customerKey("X-Amz-Server-Side-Encryption-Customer-")
	if err != nil {
		return err
	}
	if err := v.encryption.checkCustomerKey(customerKey); err != nil {
		return err
	}
	if err := c.readConditions("").check(v, wire.Errorf(http.StatusNotModified, "NotModified", "Not Modified")); err != nil {
		c.set("Etag", quote(v.etag))
		c.set("Last-Modified", v.modifiedTime().Format(httpTime))
		return err
	}
	from, to, partial, err := c.span(v)
	if err != nil {
		return err
	}
	wantSum := strings.EqualFold(c.header("X-Amz-Checksum-Mode"), "ENABLED")
	var data []byte
	switch {
	case body:
		if data, err = s.open(c, c.name, c.key, v, customerKey); err != nil {
			return err
		}
	case wantSum && v.encryption.usesKMS():
		// HEAD needs the KMS key only for the checksum.
		if _, err := s.dataKey(c.caller, c.name, c.key, v.encryption, customerKey); err != nil {
			return err
		}
	}
	v.metadata.describe(c)
	v.describe(c)
	for _, name := range overridable {
		c.set(name, c.query.Get("response-"+strings.ToLower(name)))
	}
	// A checksum is of the whole object: a range answers without it.
	if wantSum && !partial {
		v.checksum.describe(c)
	}
	c.set("Content-Length", strconv.FormatInt(to-from, 10))
	status := http.StatusOK
	if partial {
		c.set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, v.size))
		status = http.StatusPartialContent
	}
	c.w.WriteHeader(status)
	if body {
		_, _ = c.w.Write(data[from:to]) // an error means that the client is gone
	}
	return nil
}

// describe sets the headers that HEAD and GET tell of a version beside its metadata.
func (v *version) describe(c *call) {
	c.set("Etag", quote(v.etag))
	c.set("Last-Modified", v.modifiedTime().Format(httpTime))
	c.set("Accept-Ranges", "bytes")
	c.setVersion(v)
	v.encryption.describe(c)
	if v.storageClass != standard {
		c.set("X-Amz-Storage-Class", v.storageClass)
	}
	if len(v.tags) > 0 {
		c.set("X-Amz-Tagging-Count", strconv.Itoa(len(v.tags)))
	}
	v.lock.describe(c)
	c.set("X-Amz-Restore", v.restored.header())
}

// span returns the bytes that a read is about: a Range, a part or everything.
func (c *call) span(v *version) (from, to int64, partial bool, err error) {
	if number := c.query.Get("partNumber"); number != "" {
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || n < 1 || n > maxParts {
			return 0, 0, false, invalidArgument("partNumber", number, "Part number must be an integer between 1 and 10000, inclusive")
		}
		multipart := v.segments[0].part != 0
		if multipart {
			c.set("X-Amz-Mp-Parts-Count", strconv.Itoa(len(v.segments)))
		}
		for i, s := range v.segments {
			to = from + s.size()
			if int64(s.part) == n || !multipart && n == 1 && i == 0 {
				return from, to, v.size > 0, nil
			}
			from = to
		}
		return 0, 0, false, wire.Errorf(http.StatusRequestedRangeNotSatisfiable, "InvalidPartNumber", "The requested partnumber is not satisfiable")
	}
	header := c.header("Range")
	if header == "" {
		return 0, v.size, false, nil
	}
	from, to, ok := parseRange(header, v.size)
	switch {
	case !ok: // not a range of the one form that S3 knows: ignored
		return 0, v.size, false, nil
	case from >= to:
		return 0, 0, false, &wire.Error{Code: "InvalidRange", Message: "The requested range is not satisfiable", Status: http.StatusRequestedRangeNotSatisfiable,
			Fields: map[string]string{"RangeRequested": header, "ActualObjectSize": strconv.FormatInt(v.size, 10)}}
	}
	return from, to, true, nil
}

// parseRange reads "bytes=A-B", "bytes=A-" and "bytes=-N" against a size. The
// range ends before to; it is empty where nothing of it exists.
func parseRange(header string, size int64) (from, to int64, ok bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return 0, 0, false
	}
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return 0, 0, false
	}
	if first == "" {
		n, err := strconv.ParseUint(last, 10, 63)
		if err != nil {
			return 0, 0, false
		}
		return max(0, size-int64(n)), size, true
	}
	a, err := strconv.ParseUint(first, 10, 63)
	if err != nil {
		return 0, 0, false
	}
	if last == "" {
		return int64(a), size, true
	}
	b, err := strconv.ParseUint(last, 10, 63)
	if err != nil || b < a {
		return 0, 0, false
	}
	return int64(a), min(int64(b), size-1) + 1, true
}

func (s *Service) deleteObject(c *call) error {
	if c.header("If-Match") != "" && c.query.Has("versionId") {
		return wire.Errorf(http.StatusNotImplemented, "NotImplemented", "localaws does not model If-Match with a version id")
	}
	done, err := s.delete(c, c.key, c.query.Get("versionId"), c.header("If-Match"))
	if err != nil {
		return err
	}
	if done.marker {
		c.set("X-Amz-Delete-Marker", "true")
	}
	c.set("X-Amz-Version-Id", done.id)
	return c.empty(http.StatusNoContent)
}

// deleted is what a delete did.
type deleted struct {
	id     string // of the version that was removed or of the marker that was made
	marker bool   // that version is a delete marker
}

// delete deletes an object as the bucket's versioning says, or one version of
// it for good. What is not there is deleted already, except that an If-Match
// on it fails.
func (s *Service) delete(c *call, key, versionID, etag string) (deleted, error) {
	b := c.bucket
	if versionID != "" {
		if _, ok := sequenceOf(versionID); !ok && versionID != nullID {
			return deleted{}, invalidArgument("versionId", versionID, "Invalid version id specified")
		}
		v, err := b.remove(key, versionID, func(v *version) error { return c.checkRemovable(key, v) })
		if err != nil {
			return deleted{}, err
		}
		return deleted{id: versionID, marker: v != nil && v.marker}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := (writeCondition{etag: etag}).check(b.current(key)); err != nil {
		return deleted{}, err
	}
	if b.versioning == "" {
		b.objects.remove(key) // a lock needs versioning, so nothing here has one
		return deleted{}, nil
	}
	return deleted{id: b.insert(key, &version{marker: true}), marker: true}, nil
}

// deleteObjects deletes up to a thousand objects and answers for each.
func (s *Service) deleteObjects(c *call) error {
	var list struct {
		Quiet   bool
		Objects []struct {
			Key              string
			VersionID        string `xml:"VersionId"`
			ETag             string
			LastModifiedTime *string
			Size             *string
		} `xml:"Object"`
	}
	if err := c.decode(&list); err != nil {
		return err
	}
	if len(list.Objects) == 0 || len(list.Objects) > 1000 {
		return malformedXML()
	}
	if c.header("Content-Md5") == "" && given(c.r.Header).algorithm == nil && c.header("X-Amz-Trailer") == "" {
		return wire.Errorf(400, "InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")
	}
	d := newDocument("DeleteResult")
	for _, o := range list.Objects {
		done, err := s.deleteOne(c, o.Key, o.VersionID, o.ETag, o.LastModifiedTime != nil || o.Size != nil)
		if err != nil {
			e := wire.AsError(err)
			d.begin("Error")
			d.element("Key", o.Key)
			d.optional("VersionId", o.VersionID)
			d.element("Code", e.Code)
			d.element("Message", e.Message)
			d.end("Error")
			continue
		}
		if list.Quiet {
			continue
		}
		d.begin("Deleted")
		d.element("Key", o.Key)
		d.optional("VersionId", o.VersionID)
		if done.marker {
			d.boolean("DeleteMarker", true)
			d.element("DeleteMarkerVersionId", done.id)
		}
		d.end("Deleted")
	}
	d.end("DeleteResult")
	return c.xml(d)
}

func (s *Service) deleteOne(c *call, key, versionID, etag string, directoryOnly bool) (deleted, error) {
	if directoryOnly { // LastModifiedTime and Size are conditions of directory buckets
		return deleted{}, wire.Errorf(http.StatusNotImplemented, "NotImplemented", "A condition you provided implies functionality that is not implemented")
	}
	action := "s3:DeleteObject"
	if versionID != "" {
		action = "s3:DeleteObjectVersion"
	}
	if err := c.authorize(action, c.name, key); err != nil {
		return deleted{}, err
	}
	return s.delete(c, key, versionID, etag)
}

// getObjectAttributes answers with those attributes that the request lists.
func (s *Service) getObjectAttributes(c *call) error {
	v, err := c.version()
	if err != nil {
		return err
	}
	customerKey, err := c.customerKey("X-Amz-Server-Side-Encryption-Customer-")
	if err != nil {
		return err
	}
	if err := v.encryption.checkCustomerKey(customerKey); err != nil {
		return err
	}
	var wants []string
	for _, line := range c.r.Header.Values("X-Amz-Object-Attributes") {
		for name := range strings.SplitSeq(line, ",") {
			wants = append(wants, strings.TrimSpace(name))
		}
	}
	if len(wants) == 0 {
		return invalidArgument("x-amz-object-attributes", "", "Invalid attribute name specified.")
	}
	for _, name := range wants {
		if !slices.Contains([]string{"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"}, name) {
			return invalidArgument("x-amz-object-attributes", name, "Invalid attribute name specified.")
		}
	}
	c.set("Last-Modified", v.modifiedTime().Format(httpTime))
	c.setVersion(v)
	d := newDocument("GetObjectAttributesResponse")
	if slices.Contains(wants, "ETag") {
		d.element("ETag", v.etag) // without quotes, unlike everywhere else
	}
	if slices.Contains(wants, "Checksum") && v.checksum.algorithm != nil {
		d.begin("Checksum")
		v.checksum.write(d)
		d.end("Checksum")
	}
	if slices.Contains(wants, "ObjectParts") && v.segments[0].part != 0 {
		if err := c.writeParts(d, v); err != nil {
			return err
		}
	}
	if slices.Contains(wants, "StorageClass") {
		d.element("StorageClass", v.storageClass)
	}
	if slices.Contains(wants, "ObjectSize") {
		d.number("ObjectSize", v.size)
	}
	d.end("GetObjectAttributesResponse")
	return c.xml(d)
}

// writeParts adds the parts of an object that was made by a multipart upload.
func (c *call) writeParts(d *document, v *version) error {
	limit, err := limitOf("x-amz-max-parts", c.header("X-Amz-Max-Parts"))
	if err != nil {
		return err
	}
	marker, err := limitOf("x-amz-part-number-marker", c.header("X-Amz-Part-Number-Marker"))
	if err != nil {
		return err
	}
	if c.header("X-Amz-Part-Number-Marker") == "" {
		marker = 0
	}
	d.begin("ObjectParts")
	// "TotalPartsCount" is PartsCount on the wire.
	d.number("PartsCount", int64(len(v.segments)))
	count, last, truncated := 0, int64(0), false
	for _, s := range v.segments {
		if int(s.part) <= marker {
			continue
		}
		if count == limit {
			truncated = true
			break
		}
		count, last = count+1, int64(s.part)
		// Parts are listed only where they have checksums of their own.
		if v.checksum.composite {
			d.begin("Part")
			d.number("PartNumber", last)
			d.number("Size", s.size())
			d.element(s.checksum.algorithm.member(), s.checksum.value)
			d.end("Part")
		}
	}
	d.number("PartNumberMarker", int64(marker))
	if truncated {
		d.number("NextPartNumberMarker", last)
	}
	d.number("MaxParts", int64(limit))
	d.boolean("IsTruncated", truncated)
	d.end("ObjectParts")
	return nil
}
