package s3

import (
	"crypto/md5" //nolint:gosec // S3's ETags are MD5
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// maxParts is how many parts an upload may have, and the highest part number.
const maxParts = 10000

// upload is a multipart upload in progress. The bucket's lock guards nextNonce
// and parts; nothing else of it changes.
type upload struct {
	id, key    string
	initiated  time.Time
	initiator  string // account
	draft      draft
	encryption *encryption
	algorithm  *algorithm // of the parts' checksums
	composite  bool
	named      bool // the client chose the algorithm

	nextNonce uint64
	parts     map[int32]part
}

// part is an uploaded part. It never changes; another upload replaces it.
type part struct {
	etag     string
	modified time.Time
	segment  segment
}

func (u *upload) checksumType() string { return checksum{composite: u.composite}.kind() }

func errNoSuchUpload() error {
	return wire.Errorf(404, "NoSuchUpload", "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.")
}

// upload returns the upload that the request names.
func (c *call) upload() (*upload, error) {
	c.bucket.mu.RLock()
	defer c.bucket.mu.RUnlock()
	u := c.bucket.uploads[c.query.Get("uploadId")]
	if u == nil || u.key != c.key {
		return nil, errNoSuchUpload()
	}
	return u, nil
}

func (s *Service) createMultipartUpload(c *call) error {
	d, err := c.draft()
	if err != nil {
		return err
	}
	want, err := c.wantedEncryption()
	if err != nil {
		return err
	}
	u := &upload{key: c.key, initiated: time.Now().UTC().Truncate(time.Second), initiator: c.caller.AccountID, draft: d, parts: map[int32]part{}}
	if err := u.chooseChecksum(c.header("X-Amz-Checksum-Algorithm"), c.header("X-Amz-Checksum-Type")); err != nil {
		return err
	}
	if u.encryption, err = s.wrap(c.caller, c.name, c.key, want, randomBytes(32)); err != nil {
		return err
	}
	u.id = newVersionID(c.bucket.sequence.Add(1))
	c.bucket.mu.Lock()
	c.bucket.uploads[u.id] = u
	c.bucket.mu.Unlock()
	u.encryption.describe(c)
	u.encryption.describeContext(c)
	if u.named {
		c.set("X-Amz-Checksum-Algorithm", u.algorithm.name)
		c.set("X-Amz-Checksum-Type", u.checksumType())
	}
	doc := newDocument("InitiateMultipartUploadResult")
	doc.element("Bucket", c.name)
	doc.element("Key", c.key)
	doc.element("UploadId", u.id)
	doc.end("InitiateMultipartUploadResult")
	return c.xml(doc)
}

// chooseChecksum sets the algorithm and the type that the request asks for.
func (u *upload) chooseChecksum(name, kind string) error {
	u.algorithm = defaultAlgorithm
	if name != "" {
		var err error
		if u.algorithm, err = algorithmNamed(name); err != nil {
			return err
		}
		u.named = true
	}
	u.composite = u.algorithm.composite
	switch kind {
	case "":
		return nil
	case "COMPOSITE":
		u.composite = true
	case "FULL_OBJECT":
		u.composite = false
	default:
		return invalidArgument("x-amz-checksum-type", kind, "Value for x-amz-checksum-type header is invalid.")
	}
	if u.composite && !u.algorithm.composite || !u.composite && !u.algorithm.full {
		return wire.Errorf(400, "InvalidRequest", "The %s checksum type cannot be used with the %s checksum algorithm.", kind, strings.ToLower(u.algorithm.name))
	}
	return nil
}

// partNumber reads the number of a part.
func (c *call) partNumber() (int32, error) {
	value := c.query.Get("partNumber")
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 1 || n > maxParts {
		return 0, invalidArgument("partNumber", value, "Part number must be an integer between 1 and 10000, inclusive")
	}
	return int32(n), nil
}

func (s *Service) uploadPart(c *call) error {
	number, err := c.partNumber()
	if err != nil {
		return err
	}
	u, err := c.upload()
	if err != nil {
		return err
	}
	data, sum, err := c.payload(maxObject)
	if err != nil {
		return err
	}
	if u.named && sum.algorithm != nil && sum.algorithm != u.algorithm {
		return wire.Errorf(400, "InvalidRequest", "Checksum Type mismatch occurred, expected checksum Type: %s, actual checksum Type: %s", strings.ToLower(u.algorithm.name), strings.ToLower(sum.algorithm.name))
	}
	p, err := s.storePart(c, u, number, data)
	if err != nil {
		return err
	}
	c.set("Etag", quote(p.etag))
	u.encryption.describe(c)
	c.set(p.segment.checksum.algorithm.header, p.segment.checksum.value)
	return c.empty(http.StatusOK)
}

// storePart seals data as a part of the upload, in the place of one that has
// the number already. It needs the upload's KMS key.
func (s *Service) storePart(c *call, u *upload, number int32, data []byte) (part, error) {
	customerKey, err := c.customerKey("X-Amz-Server-Side-Encryption-Customer-")
	if err != nil {
		return part{}, err
	}
	dataKey, err := s.dataKey(c.caller, c.name, c.key, u.encryption, customerKey)
	if err != nil {
		return part{}, err
	}
	c.bucket.mu.Lock()
	u.nextNonce++
	n := u.nextNonce
	c.bucket.mu.Unlock()
	p := part{modified: time.Now().UTC().Truncate(time.Second), etag: hex.EncodeToString(randomBytes(md5.Size))}
	if p.segment, err = sealSegment(dataKey, n, data); err != nil {
		return part{}, err
	}
	if u.encryption.kind == sseS3 {
		sum := md5.Sum(data) //nolint:gosec // S3's ETags are MD5
		p.etag = hex.EncodeToString(sum[:])
	}
	p.segment.part = number
	p.segment.checksum = checksumOf(u.algorithm, data)
	c.bucket.mu.Lock()
	defer c.bucket.mu.Unlock()
	if c.bucket.uploads[u.id] != u { // completed or aborted meanwhile
		return part{}, errNoSuchUpload()
	}
	u.parts[number] = p
	return p, nil
}

// completedPart is what a client says about a part.
type completedPart struct {
	PartNumber int32
	ETag       string

	CRC64NVME string `xml:"ChecksumCRC64NVME"`
	CRC32     string `xml:"ChecksumCRC32"`
	CRC32C    string `xml:"ChecksumCRC32C"`
	SHA1      string `xml:"ChecksumSHA1"`
	SHA256    string `xml:"ChecksumSHA256"`
	SHA512    string `xml:"ChecksumSHA512"`
	MD5       string `xml:"ChecksumMD5"`
}

// claim returns the checksum that the client gives for the algorithm.
func (p completedPart) claim(a *algorithm) string {
	return map[string]string{"CRC64NVME": p.CRC64NVME, "CRC32": p.CRC32, "CRC32C": p.CRC32C, "SHA1": p.SHA1, "SHA256": p.SHA256, "SHA512": p.SHA512, "MD5": p.MD5}[a.name]
}

func (s *Service) completeMultipartUpload(c *call) error {
	cond, err := c.writeCondition()
	if err != nil {
		return err
	}
	var in struct {
		Parts []completedPart `xml:"Part"`
	}
	// The checksum headers of this request are about the object, not about the body.
	body, _, err := readBody(c.r, maxDocument)
	if err != nil {
		return err
	}
	if err := unmarshal(body, &in); err != nil {
		return err
	}
	u, err := c.upload()
	if err != nil {
		return err
	}
	c.bucket.mu.RLock()
	uploaded := maps.Clone(u.parts)
	c.bucket.mu.RUnlock()
	chosen, err := s.choose(u, uploaded, in.Parts)
	if err != nil {
		return err
	}
	v := &version{encryption: u.encryption, modified: u.initiated.Unix()}
	v.apply(u.draft)
	var sums []byte
	for _, p := range chosen {
		v.segments = append(v.segments, p.segment)
		v.size += p.segment.size()
		sum, err := hex.DecodeString(p.etag)
		if err != nil {
			return err
		}
		sums = append(sums, sum...)
	}
	if claim := c.header("X-Amz-Mp-Object-Size"); claim != "" && claim != strconv.FormatInt(v.size, 10) {
		return wire.Errorf(400, "InvalidRequest", "The provided 'x-amz-mp-object-size' header value %s does not match what was computed: %d", claim, v.size)
	}
	sum := md5.Sum(sums) //nolint:gosec // S3's ETags are MD5
	v.etag = hex.EncodeToString(sum[:]) + "-" + strconv.Itoa(len(chosen))
	if v.checksum, err = s.objectChecksum(c, u, v.segments); err != nil {
		return err
	}
	if claim := given(c.r.Header); claim.algorithm != nil && (claim.algorithm != v.checksum.algorithm || claim.value != v.checksum.value) {
		return wire.Errorf(400, "BadDigest", "The %s you specified did not match the calculated checksum.", claim.algorithm.name)
	}
	id, err := c.bucket.complete(u, v, cond)
	if err != nil {
		return err
	}
	c.set("X-Amz-Version-Id", id)
	v.encryption.describe(c)
	d := newDocument("CompleteMultipartUploadResult")
	d.element("Location", "http://"+c.r.Host+"/"+c.name+"/"+encodeKey(c.key))
	d.element("Bucket", c.name)
	d.element("Key", c.key)
	d.element("ETag", quote(v.etag))
	v.checksum.write(d)
	d.end("CompleteMultipartUploadResult")
	return c.xml(d)
}

// complete makes v an object and ends its upload, both or none.
func (b *bucket) complete(u *upload, v *version, cond writeCondition) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uploads[u.id] != u {
		return "", errNoSuchUpload()
	}
	if err := cond.check(b.current(u.key)); err != nil {
		return "", err
	}
	delete(b.uploads, u.id)
	return b.insert(u.key, v), nil
}

// choose returns the uploaded parts that the client lists, having checked the
// list.
func (s *Service) choose(u *upload, uploaded map[int32]part, list []completedPart) ([]part, error) {
	if len(list) == 0 {
		return nil, malformedXML()
	}
	for i := 1; i < len(list); i++ {
		if list[i].PartNumber <= list[i-1].PartNumber {
			return nil, wire.Errorf(400, "InvalidPartOrder", "The list of parts was not in ascending order. Parts must be ordered by part number.")
		}
	}
	var chosen []part
	for i, want := range list {
		p, ok := uploaded[want.PartNumber]
		claim := want.claim(u.algorithm)
		if !ok || strings.Trim(want.ETag, `"`) != p.etag || claim != "" && claim != p.segment.checksum.value {
			return nil, &wire.Error{Code: "InvalidPart", Message: "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.", Status: 400,
				Fields: map[string]string{"PartNumber": strconv.Itoa(int(want.PartNumber)), "ETag": strings.Trim(want.ETag, `"`)}}
		}
		if size := p.segment.size(); i < len(list)-1 && size < s.cfg.MinPartSize {
			return nil, &wire.Error{Code: "EntityTooSmall", Message: "Your proposed upload is smaller than the minimum allowed size", Status: 400,
				Fields: map[string]string{"ProposedSize": strconv.FormatInt(size, 10), "MinSizeAllowed": strconv.FormatInt(s.cfg.MinPartSize, 10), "PartNumber": strconv.Itoa(int(want.PartNumber))}}
		}
		chosen = append(chosen, p)
	}
	return chosen, nil
}

// objectChecksum returns the checksum of the object that the segments make.
// Completing an upload reads its parts, so it needs the KMS key. Without the
// customer's key, which the request need not bring, there is no full checksum.
func (s *Service) objectChecksum(c *call, u *upload, segments []segment) (checksum, error) {
	customerKey, err := c.customerKey("X-Amz-Server-Side-Encryption-Customer-")
	if err != nil {
		return checksum{}, err
	}
	sealed := u.encryption.kind == sseCustomer && customerKey == nil
	var dataKey []byte
	if !sealed {
		if dataKey, err = s.dataKey(c.caller, c.name, c.key, u.encryption, customerKey); err != nil {
			return checksum{}, err
		}
	}
	h := u.algorithm.make()
	sum := checksum{algorithm: u.algorithm, composite: u.composite}
	suffix := ""
	switch {
	case u.composite: // the checksum of the parts' checksums
		for _, s := range segments {
			raw, err := base64.StdEncoding.DecodeString(s.checksum.value)
			if err != nil {
				return checksum{}, err
			}
			_, _ = h.Write(raw) // a hash never fails
		}
		suffix = "-" + strconv.Itoa(len(segments))
	case sealed:
		return checksum{}, nil
	default:
		for i := range segments {
			data, err := openSegments(dataKey, segments[i:i+1])
			if err != nil {
				return checksum{}, err
			}
			_, _ = h.Write(data) // a hash never fails
		}
	}
	sum.value = base64.StdEncoding.EncodeToString(h.Sum(nil)) + suffix
	return sum, nil
}

func (s *Service) abortMultipartUpload(c *call) error {
	if _, err := c.upload(); err != nil {
		return err
	}
	c.bucket.mu.Lock()
	delete(c.bucket.uploads, c.query.Get("uploadId"))
	c.bucket.mu.Unlock()
	return c.empty(http.StatusNoContent)
}

func (s *Service) listParts(c *call) error {
	u, err := c.upload()
	if err != nil {
		return err
	}
	limit, err := limitOf("max-parts", c.query.Get("max-parts"))
	if err != nil {
		return err
	}
	marker := int64(0)
	if v := c.query.Get("part-number-marker"); v != "" {
		if marker, err = strconv.ParseInt(v, 10, 32); err != nil || marker < 0 {
			return invalidArgument("part-number-marker", v, "Provided part-number-marker not an integer or within integer range")
		}
	}
	c.bucket.mu.RLock()
	parts := maps.Clone(u.parts)
	c.bucket.mu.RUnlock()
	maps.DeleteFunc(parts, func(n int32, _ part) bool { return int64(n) <= marker })
	numbers := slices.Sorted(maps.Keys(parts))
	truncated := len(numbers) > limit
	numbers = numbers[:min(limit, len(numbers))]
	d := newDocument("ListPartsResult")
	d.element("Bucket", c.name)
	d.element("Key", c.key)
	d.element("UploadId", u.id)
	writeInitiator(d, u)
	d.element("StorageClass", u.draft.storageClass)
	if u.named {
		d.element("ChecksumAlgorithm", u.algorithm.name)
		d.element("ChecksumType", u.checksumType())
	}
	d.number("PartNumberMarker", marker)
	if len(numbers) > 0 {
		d.number("NextPartNumberMarker", int64(numbers[len(numbers)-1]))
	}
	d.number("MaxParts", int64(limit))
	d.boolean("IsTruncated", truncated)
	for _, n := range numbers {
		p := parts[n]
		d.begin("Part")
		d.number("PartNumber", int64(n))
		d.element("LastModified", p.modified.Format(isoTime))
		d.element("ETag", quote(p.etag))
		d.number("Size", p.segment.size())
		d.element(p.segment.checksum.algorithm.member(), p.segment.checksum.value)
		d.end("Part")
	}
	d.end("ListPartsResult")
	return c.xml(d)
}

func writeInitiator(d *document, u *upload) {
	owner(d, "Initiator", u.initiator)
	owner(d, "Owner", u.initiator)
}

// listMultipartUploads lists the uploads in progress, by key and age.
func (s *Service) listMultipartUploads(c *call) error {
	l, err := c.listing("max-uploads")
	if err != nil {
		return err
	}
	keyMarker, idMarker := c.query.Get("key-marker"), c.query.Get("upload-id-marker")
	if keyMarker == "" {
		idMarker = "" // S3 ignores it then
	}
	c.bucket.mu.RLock()
	uploads := slices.Collect(maps.Values(c.bucket.uploads))
	c.bucket.mu.RUnlock()
	slices.SortFunc(uploads, func(a, b *upload) int {
		if a.key != b.key {
			return strings.Compare(a.key, b.key)
		}
		return strings.Compare(a.id, b.id) // ids grow
	})
	type line struct {
		key    string
		upload *upload // nil for a common prefix
	}
	var lines []line
	truncated := false
	for _, u := range uploads {
		if !strings.HasPrefix(u.key, l.prefix) {
			continue
		}
		next := line{u.key, u}
		if g := l.group(u.key); g != "" {
			next = line{g, nil}
		}
		switch {
		case next.upload == nil && (next.key <= keyMarker || len(lines) > 0 && lines[len(lines)-1] == next):
			continue
		case next.upload != nil && (u.key < keyMarker || u.key == keyMarker && u.id <= idMarker || u.key == keyMarker && idMarker == ""):
			continue
		}
		if len(lines) == l.limit {
			truncated = l.limit > 0
			break
		}
		lines = append(lines, next)
	}
	d := newDocument("ListMultipartUploadsResult")
	d.element("Bucket", c.name)
	d.element("KeyMarker", l.encode(keyMarker))
	d.element("UploadIdMarker", idMarker)
	l.write(d, "MaxUploads", truncated)
	if truncated {
		last := lines[len(lines)-1]
		d.element("NextKeyMarker", l.encode(last.key))
		if last.upload != nil {
			d.element("NextUploadIdMarker", last.upload.id)
		}
	}
	for _, line := range lines {
		if line.upload == nil {
			d.begin("CommonPrefixes")
			d.element("Prefix", l.encode(line.key))
			d.end("CommonPrefixes")
			continue
		}
		u := line.upload
		d.begin("Upload")
		d.element("Key", l.encode(u.key))
		d.element("UploadId", u.id)
		writeInitiator(d, u)
		d.element("StorageClass", u.draft.storageClass)
		d.element("Initiated", u.initiated.Format(isoTime))
		if u.named {
			d.element("ChecksumAlgorithm", u.algorithm.name)
			d.element("ChecksumType", u.checksumType())
		}
		d.end("Upload")
	}
	d.end("ListMultipartUploadsResult")
	return c.xml(d)
}
