package s3

import (
	"crypto/md5"  //nolint:gosec // S3's ETags and Content-MD5 are MD5
	"crypto/sha1" //nolint:gosec // one of S3's checksum algorithms
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"net/http"
	"strings"
	"sync"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// algorithm is a checksum algorithm of S3. The XXHASH ones are not modelled.
type algorithm struct {
	name   string // as in x-amz-checksum-algorithm
	header string // that carries a value
	make   func() hash.Hash
	// full and composite say which types a multipart upload may have with it;
	// the type that it has by default is composite where that is possible.
	full, composite bool
}

// nvme is CRC-64/NVME, in the reversed form of hash/crc64.
var nvme = sync.OnceValue(func() *crc64.Table { return crc64.MakeTable(0x9a6c9329ac4bc9b5) })

var algorithms = []*algorithm{
	{"CRC64NVME", "X-Amz-Checksum-Crc64nvme", func() hash.Hash { return crc64.New(nvme()) }, true, false},
	{"CRC32", "X-Amz-Checksum-Crc32", func() hash.Hash { return crc32.NewIEEE() }, true, true},
	{"CRC32C", "X-Amz-Checksum-Crc32c", func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }, true, true},
	{"SHA1", "X-Amz-Checksum-Sha1", sha1.New, false, true},
	{"SHA256", "X-Amz-Checksum-Sha256", sha256.New, false, true},
	{"SHA512", "X-Amz-Checksum-Sha512", sha512.New, false, true},
	{"MD5", "X-Amz-Checksum-Md5", md5.New, false, true},
}

// defaultAlgorithm is what S3 computes where the request names no algorithm.
var defaultAlgorithm = algorithms[0]

// algorithmNamed returns the algorithm with the name, as a header gives it.
func algorithmNamed(name string) (*algorithm, error) {
	for _, a := range algorithms {
		if strings.EqualFold(a.name, name) {
			return a, nil
		}
	}
	return nil, wire.Errorf(http.StatusBadRequest, "InvalidRequest", "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
}

func (a *algorithm) sum(data []byte) string {
	h := a.make()
	_, _ = h.Write(data) // a hash never fails
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// member is the name of the checksum's XML element.
func (a *algorithm) member() string { return "Checksum" + a.name }

// checksum is the checksum that S3 keeps with an object or a part. The zero
// value is that of an object without any.
type checksum struct {
	algorithm *algorithm
	value     string // base64, with "-N" behind it when composite
	composite bool
}

func (c checksum) kind() string {
	if c.composite {
		return "COMPOSITE"
	}
	return "FULL_OBJECT"
}

// checksumOf returns the full checksum of data.
func checksumOf(a *algorithm, data []byte) checksum {
	return checksum{algorithm: a, value: a.sum(data)}
}

// describe sets the headers that tell the checksum.
func (c checksum) describe(to *call) {
	if c.algorithm != nil {
		to.set(c.algorithm.header, c.value)
		to.set("X-Amz-Checksum-Type", c.kind())
	}
}

// write adds the elements that tell the checksum.
func (c checksum) write(d *document) {
	if c.algorithm != nil {
		d.element(c.algorithm.member(), c.value)
		d.element("ChecksumType", c.kind())
	}
}

// given returns the checksum that a header or trailer of the request claims,
// the zero one where there is none.
func given(h http.Header) checksum {
	for _, a := range algorithms {
		if v := h.Get(a.header); v != "" {
			return checksum{algorithm: a, value: v}
		}
	}
	return checksum{}
}

// payload reads the request's body, undoes aws-chunked and checks what the
// request claims about it: its length, Content-MD5, the SHA-256 that was signed
// and the x-amz-checksum- header or trailer. It returns that checksum, the zero
// one where the request has none.
func (c *call) payload(limit int64) ([]byte, checksum, error) {
	data, trailer, err := readBody(c.r, limit)
	if err != nil {
		return nil, checksum{}, err
	}
	if claim := c.header("Content-Md5"); claim != "" {
		sum := md5.Sum(data) //nolint:gosec // Content-MD5
		raw, err := base64.StdEncoding.DecodeString(claim)
		if err != nil || len(raw) != md5.Size {
			return nil, checksum{}, wire.Errorf(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
		}
		if string(raw) != string(sum[:]) {
			return nil, checksum{}, wire.Errorf(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
		}
	}
	if claim := c.header("X-Amz-Content-Sha256"); len(claim) == 2*sha256.Size {
		if sum := sha256.Sum256(data); !strings.EqualFold(claim, hex.EncodeToString(sum[:])) {
			return nil, checksum{}, wire.Errorf(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed.")
		}
	}
	claim := given(c.r.Header)
	if claim.algorithm == nil {
		claim = given(trailer)
	}
	if claim.algorithm != nil && claim.algorithm.sum(data) != claim.value {
		return nil, checksum{}, wire.Errorf(400, "BadDigest", "The %s you specified did not match the calculated checksum.", claim.algorithm.name)
	}
	return data, claim, nil
}
