package reencrypt

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// entry is an object version as a listing shows it: without its key.
type entry struct {
	key, version         string // version is "" where the bucket was listed without versions
	latest, deleteMarker bool
	checksum             types.ChecksumAlgorithm
}

// page is one answer of a listing: entries in the order of their keys, and the
// request for the next one (nil at the end).
type page struct {
	entries []entry
	err     error
	next    func(context.Context) page
}

// pagesAhead is how many pages of a listing wait for the work on the one before
// them: a slow answer delays no work, and memory stays small.
const pagesAhead = 2

// entries lists the object versions of a bucket under prefix whose keys lie after
// one key up to and including another ("" is no bound), in the order of their
// keys. It lists on while the entries are worked on, a few pages ahead. An error
// ends the sequence.
func (e *Engine) entries(ctx context.Context, s spec, versions bool, after, through string) iter.Seq2[entry, error] {
	size := int32(1000) // what S3 gives at most
	if through != "" && e.opt.SliceSize < 1000 {
		size = int32(e.opt.SliceSize) // not far beyond a small slice
	}
	first := e.currentPage(s, size, after, nil)
	if versions {
		first = e.versionsPage(s, size, after, "")
	}
	// ends reports whether nothing behind a page is wanted. More versions of its last
	// key may be on the next one.
	ends := func(p page) bool {
		if p.err != nil || p.next == nil {
			return true
		}
		n := len(p.entries)
		return through != "" && n > 0 && (p.entries[n-1].key > through || p.entries[n-1].key == through && !versions)
	}
	return func(yield func(entry, error) bool) {
		listing, cancel := context.WithCancel(ctx)
		pages := make(chan page, pagesAhead)
		var lister sync.WaitGroup
		defer lister.Wait()
		defer cancel()
		lister.Go(func() {
			defer close(pages)
			for ask := first; ; {
				p := ask(listing)
				select {
				case pages <- p:
				case <-listing.Done():
					return
				}
				if ends(p) {
					return
				}
				ask = p.next
			}
		})
		var last entry
		for p := range pages {
			if p.err != nil {
				yield(entry{}, p.err)
				return
			}
			for _, en := range p.entries {
				switch {
				case through != "" && en.key > through:
					return
				case en.key <= after, en.key == last.key && en.version == last.version && en.deleteMarker == last.deleteMarker:
					// Some servers begin with the marker itself, or repeat an entry on the next page.
					continue
				}
				last = en
				if !yield(en, nil) {
					return
				}
			}
		}
		if err := ctx.Err(); err != nil { // the listing may have been broken off
			yield(entry{}, err)
		}
	}
}

func (e *Engine) currentPage(s spec, size int32, after string, token *string) func(context.Context) page {
	return func(ctx context.Context) page {
		in := &s3.ListObjectsV2Input{
			Bucket: &s.Bucket, Prefix: optional(s.Prefix), EncodingType: types.EncodingTypeUrl, MaxKeys: &size,
			ContinuationToken: token, ExpectedBucketOwner: &e.opt.Account,
		}
		if token == nil {
			in.StartAfter = optional(after)
		}
		out, err := e.opt.S3.ListObjectsV2(ctx, in)
		if err != nil {
			return page{err: bucketError("ListObjectsV2", s.Bucket, err)}
		}
		d := decoder{encoding: out.EncodingType}
		p := page{entries: make([]entry, len(out.Contents))}
		for i, o := range out.Contents {
			p.entries[i] = entry{key: d.key(o.Key), latest: true, checksum: first(o.ChecksumAlgorithm)}
		}
		if aws.ToBool(out.IsTruncated) && out.NextContinuationToken != nil {
			p.next = e.currentPage(s, size, after, out.NextContinuationToken)
		}
		p.err = d.err
		return p
	}
}

func (e *Engine) versionsPage(s spec, size int32, keyMarker, versionMarker string) func(context.Context) page {
	return func(ctx context.Context) page {
		out, err := e.opt.S3.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{
			Bucket: &s.Bucket, Prefix: optional(s.Prefix), EncodingType: types.EncodingTypeUrl, MaxKeys: &size,
			KeyMarker: optional(keyMarker), VersionIdMarker: optional(versionMarker), ExpectedBucketOwner: &e.opt.Account,
		})
		if err != nil {
			return page{err: bucketError("ListObjectVersions", s.Bucket, err)}
		}
		d := decoder{encoding: out.EncodingType}
		versions := make([]entry, len(out.Versions))
		for i, o := range out.Versions {
			versions[i] = entry{key: d.key(o.Key), version: aws.ToString(o.VersionId), latest: aws.ToBool(o.IsLatest), checksum: first(o.ChecksumAlgorithm)}
		}
		markers := make([]entry, len(out.DeleteMarkers))
		for i, o := range out.DeleteMarkers {
			markers[i] = entry{key: d.key(o.Key), version: aws.ToString(o.VersionId), latest: aws.ToBool(o.IsLatest), deleteMarker: true}
		}
		p := page{entries: append(versions, markers...)}
		if len(markers) > 0 { // both lists are in the order of their keys, and one has to be
			slices.SortStableFunc(p.entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
		}
		if aws.ToBool(out.IsTruncated) && out.NextKeyMarker != nil {
			p.next = e.versionsPage(s, size, d.key(out.NextKeyMarker), aws.ToString(out.NextVersionIdMarker))
		}
		p.err = d.err
		return p
	}
}

func first(algorithms []types.ChecksumAlgorithm) types.ChecksumAlgorithm {
	if len(algorithms) == 0 {
		return ""
	}
	return algorithms[0]
}

// decoder undoes the encoding of keys in listings, which keys with control
// characters need because XML cannot hold them. It keeps the first error.
type decoder struct {
	encoding types.EncodingType // what the server says it used
	err      error
}

func (d *decoder) key(encoded *string) string {
	if d.encoding != types.EncodingTypeUrl {
		return aws.ToString(encoded)
	}
	key, err := url.QueryUnescape(aws.ToString(encoded))
	if err != nil && d.err == nil {
		d.err = fmt.Errorf("decode listed key: %w", err)
	}
	return key
}
