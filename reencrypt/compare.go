package reencrypt

import (
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	// provenCopies is how many copies of a kind are compared with their originals
	// before the kind is proven. Of those behind them one in sampledCopies is.
	provenCopies  = 16
	sampledCopies = 256
	// maxKinds bounds memory: copies of further kinds are compared always.
	maxKinds = 1000
)

// kind is what the copies of some objects have to keep: that they have a property,
// not its value. What a server does to one object of a kind it does to all.
type kind struct {
	bucket                                 string
	class                                  types.StorageClass
	checksum                               types.ChecksumAlgorithm
	empty, bucketKey                       bool
	metadata, tags, acl, contentType       bool
	cacheControl, disposition, encoding    bool
	language, expires, redirect, multipart bool
	odd                                    bool // metadata that HEAD does not show as it is, or that have been changed
}

func kindOf(bucket string, en entry, h goal, g grants) kind {
	return kind{
		bucket: bucket, class: h.StorageClass, checksum: en.checksum,
		empty: aws.ToInt64(h.ContentLength) == 0, bucketKey: aws.ToBool(h.BucketKeyEnabled),
		metadata: len(h.Metadata) > 0, tags: aws.ToInt32(h.TagCount) > 0, acl: g != grants{}, contentType: h.ContentType != nil,
		cacheControl: h.CacheControl != nil, disposition: h.ContentDisposition != nil, encoding: h.ContentEncoding != nil,
		language: h.ContentLanguage != nil, expires: h.ExpiresString != nil, redirect: h.WebsiteRedirectLocation != nil,
		multipart: h.ChecksumType == types.ChecksumTypeComposite,
		odd:       aws.ToInt32(h.MissingMeta) > 0 || !resendable(h.Metadata) || h.resent,
	}
}

// copyAudit is what comparing copies with their originals has shown of the server in
// this process. See docs/decisions/compared-copies.md.
type copyAudit struct {
	mu     sync.Mutex
	copies map[kind]int // compared and found the same; once proven, all
	lost   bool         // a copy was not like its original: all are compared
}

// due reports whether a copy of the kind is to be compared with its original.
func (t *copyAudit) due(k kind) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.copies[k]
	if t.lost || k.odd || n < provenCopies {
		return true
	}
	t.copies[k] = n + 1
	return n%sampledCopies == 0
}

// same and differs record what comparing a copy has shown.
func (t *copyAudit) same(k kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, known := t.copies[k]
	if n >= provenCopies || !known && len(t.copies) >= maxKinds {
		return
	}
	if t.copies == nil {
		t.copies = map[kind]int{}
	}
	t.copies[k] = n + 1
}

func (t *copyAudit) differs() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost = true
}
