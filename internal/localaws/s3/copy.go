package s3

import (
	"net/http"
	"strconv"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// source is the object version that a copy reads.
type source struct {
	bucket      *bucket
	key         string
	version     *version
	versionID   string // "" where the request names none
	customerKey []byte
}

// copySource finds what x-amz-copy-source names and checks the caller's
// permission, the preconditions and that the object can be read at all.
func (s *Service) copySource(c *call) (source, error) {
	name, key, versionID, err := decodeSource(c.header("X-Amz-Copy-Source"))
	if err != nil {
		return source{}, err
	}
	action := "s3:GetObject"
	if versionID != "" {
		action = "s3:GetObjectVersion"
	}
	if err := c.authorize(action, name, key); err != nil {
		return source{}, err
	}
	b, err := s.find(name, c.header("X-Amz-Source-Expected-Bucket-Owner"))
	if err != nil {
		return source{}, err
	}
	v, err := b.lookup(key, versionID)
	switch {
	case wire.IsCode(err, "MethodNotAllowed"):
		return source{}, wire.Errorf(400, "InvalidRequest", "The source of a copy request may not specifically refer to a delete marker by version id.")
	case err != nil:
		return source{}, err
	}
	src := source{bucket: b, key: key, version: v, versionID: versionID}
	if err := c.readConditions("X-Amz-Copy-Source-").check(v, preconditionFailed("x-amz-copy-source-If-None-Match")); err != nil {
		return source{}, err
	}
	if src.customerKey, err = c.customerKey("X-Amz-Copy-Source-Server-Side-Encryption-Customer-"); err != nil {
		return source{}, err
	}
	if v.checkReadable() != nil {
		return source{}, &wire.Error{Code: "InvalidObjectState", Message: "Operation is not valid for the source object's storage class", Status: 403,
			Fields: map[string]string{"StorageClass": v.storageClass}}
	}
	return src, nil
}

// describe tells which version was copied.
func (src source) describe(c *call) {
	if src.version.id != nullID {
		c.set("X-Amz-Copy-Source-Version-Id", src.version.id)
	}
}

// directive reads a directive that says COPY (the default) or REPLACE.
func (c *call) directive(header, argument, message string) (replace bool, err error) {
	switch v := c.header(header); v {
	case "", "COPY":
		return false, nil
	case "REPLACE":
		return true, nil
	default:
		return false, invalidArgument(argument, v, message)
	}
}

// copyObject copies an object. As documented, it takes along the metadata and
// the tags, unless they are replaced, and nothing else: the storage class, the
// ACL, the lock, the website redirect, the encryption and its context are those
// of the request or the defaults of a new object.
func (s *Service) copyObject(c *call) error {
	cond, err := c.writeCondition()
	if err != nil {
		return err
	}
	replaceMetadata, err := c.directive("X-Amz-Metadata-Directive", "x-amz-metadata-directive", "Unknown metadata directive.")
	if err != nil {
		return err
	}
	replaceTags, err := c.directive("X-Amz-Tagging-Directive", "x-amz-tagging-directive", "Unknown tagging directive.")
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
	src, err := s.copySource(c)
	if err != nil {
		return err
	}
	if src.version.size > s.cfg.MaxCopySize {
		return wire.Errorf(400, "InvalidRequest", "The specified copy source is larger than the maximum allowable size for a copy source: %d", s.cfg.MaxCopySize)
	}
	if src.bucket == c.bucket && src.key == c.key && src.versionID == "" && !replaceMetadata && !c.changesItself() {
		return wire.Errorf(400, "InvalidRequest", "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.")
	}
	if !replaceMetadata {
		redirect := d.metadata.redirect
		m := *src.version.metadata
		m.redirect = redirect
		d.metadata = &m
	}
	if !replaceTags { // tags of the request are then ignored
		if len(src.version.tags) > 0 {
			if err := c.authorize("s3:GetObjectTagging", src.bucket.name, src.key); err != nil {
				return err
			}
			if err := c.authorize("s3:PutObjectTagging", c.name, c.key); err != nil {
				return err
			}
		}
		d.tags = src.version.tags
	}
	algorithm := src.version.checksum.algorithm
	if name := c.header("X-Amz-Checksum-Algorithm"); name != "" {
		if algorithm, err = algorithmNamed(name); err != nil {
			return err
		}
	}
	if algorithm == nil {
		algorithm = defaultAlgorithm
	}
	data, err := s.open(c, src.bucket.name, src.key, src.version, src.customerKey)
	if err != nil {
		return err
	}
	// The copy is one piece, so a composite checksum becomes a full one.
	v, err := s.seal(c, want, data, checksumOf(algorithm, data), d)
	if err != nil {
		return err
	}
	id, err := c.bucket.put(c.key, v, cond)
	if err != nil {
		return err
	}
	c.set("X-Amz-Version-Id", id)
	src.describe(c)
	v.encryption.describe(c)
	v.encryption.describeContext(c)
	doc := newDocument("CopyObjectResult")
	doc.element("LastModified", v.modifiedTime().Format(isoTime))
	doc.element("ETag", quote(v.etag))
	v.checksum.write(doc)
	doc.end("CopyObjectResult")
	return c.xml(doc)
}

// changesItself reports whether the request names one of the attributes that
// make a copy of an object onto itself legal.
func (c *call) changesItself() bool {
	for _, name := range []string{
		"X-Amz-Storage-Class", "X-Amz-Website-Redirect-Location", "X-Amz-Server-Side-Encryption",
		"X-Amz-Server-Side-Encryption-Customer-Algorithm", "X-Amz-Server-Side-Encryption-Bucket-Key-Enabled",
	} {
		if c.header(name) != "" {
			return true
		}
	}
	return false
}

// uploadPartCopy makes a part of an upload of an object or of a range of it.
func (s *Service) uploadPartCopy(c *call) error {
	number, err := c.partNumber()
	if err != nil {
		return err
	}
	u, err := c.upload()
	if err != nil {
		return err
	}
	src, err := s.copySource(c)
	if err != nil {
		return err
	}
	from, to := int64(0), src.version.size
	if header := c.header("X-Amz-Copy-Source-Range"); header != "" {
		if from, to, err = s.copyRange(header, src.version.size); err != nil {
			return err
		}
	}
	if to-from > s.cfg.MaxCopySize {
		return wire.Errorf(400, "InvalidRequest", "The specified copy source is larger than the maximum allowable size for a copy source: %d", s.cfg.MaxCopySize)
	}
	data, err := s.open(c, src.bucket.name, src.key, src.version, src.customerKey)
	if err != nil {
		return err
	}
	p, err := s.storePart(c, u, number, data[from:to])
	if err != nil {
		return err
	}
	src.describe(c)
	u.encryption.describe(c)
	d := newDocument("CopyPartResult")
	d.element("LastModified", p.modified.Format(isoTime))
	d.element("ETag", quote(p.etag))
	d.element(p.segment.checksum.algorithm.member(), p.segment.checksum.value)
	d.end("CopyPartResult")
	return c.xml(d)
}

// copyRange reads x-amz-copy-source-range, which names both ends.
func (s *Service) copyRange(header string, size int64) (from, to int64, err error) {
	from, to, ok := parseRange(header, size)
	if !ok || header[len(header)-1] == '-' || header[len("bytes=")] == '-' {
		return 0, 0, invalidArgument("x-amz-copy-source-range", header, "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy")
	}
	if size <= s.cfg.MinPartSize { // the message is ours
		return 0, 0, wire.Errorf(400, "InvalidRequest", "A range can be copied only from a source that is larger than %d bytes", s.cfg.MinPartSize)
	}
	if last := header[len("bytes=")+len(strconv.FormatInt(from, 10))+1:]; from >= to || last != strconv.FormatInt(to-1, 10) {
		return 0, 0, &wire.Error{Code: "InvalidArgument", Message: "Range specified is not valid for source object of size: " + strconv.FormatInt(size, 10), Status: http.StatusBadRequest}
	}
	return from, to, nil
}
