package reencrypt

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

func TestCopiesAreComparedUntilTheirKindIsProven(t *testing.T) {
	plain := &s3.HeadObjectOutput{ContentLength: aws.Int64(1), ETag: aws.String("a")}
	tagged := &s3.HeadObjectOutput{ContentLength: aws.Int64(1), TagCount: aws.Int32(1)}
	odd := &s3.HeadObjectOutput{ContentLength: aws.Int64(1), MissingMeta: aws.Int32(1)}
	k := kindOf("b", entry{key: "k1"}, plain, grants{})
	if k != kindOf("b", entry{key: "k2"}, &s3.HeadObjectOutput{ContentLength: aws.Int64(2), ETag: aws.String("b")}, grants{}) {
		t.Error("size and name make another kind")
	}
	for name, other := range map[string]kind{
		"bucket": kindOf("c", entry{}, plain, grants{}), "tags": kindOf("b", entry{}, tagged, grants{}),
		"checksum": kindOf("b", entry{checksum: "SHA256"}, plain, grants{}), "acl": kindOf("b", entry{}, plain, grants{read: aws.String("x")}),
	} {
		if k == other {
			t.Errorf("%s makes no other kind", name)
		}
	}
	var tr trust
	compare := func(k kind, n int) (compared int) {
		for range n {
			if tr.due(k) {
				compared++
				tr.same(k)
			}
		}
		return compared
	}
	if n := compare(k, 10*sampledCopies); n < provenCopies+9 || n > provenCopies+10 {
		t.Errorf("%d of %d copies were compared", n, 10*sampledCopies)
	}
	if n := compare(kindOf("b", entry{}, tagged, grants{}), provenCopies); n != provenCopies {
		t.Errorf("%d of the first %d copies of another kind were compared", n, provenCopies)
	}
	if n := compare(kindOf("b", entry{}, odd, grants{}), 1000); n != 1000 {
		t.Errorf("%d of 1000 copies with hidden metadata were compared", n)
	}
	tr.differs()
	if n := compare(k, 1000); n != 1000 {
		t.Errorf("%d of 1000 copies were compared after one had been different", n)
	}
	tr = trust{}
	for i := range 2 * maxKinds {
		compare(kindOf(fmt.Sprint(i), entry{}, plain, grants{}), 1)
	}
	if len(tr.copies) != maxKinds {
		t.Errorf("%d kinds are remembered", len(tr.copies))
	}
}

// TestRequestsPerObject counts at the server what moving an object takes, in the
// pass that moves it and in the one that proves it.
func TestRequestsPerObject(t *testing.T) {
	const objects = 4000
	for _, c := range []struct {
		method Method
		move   string
	}{{MethodUpdate, "UpdateObjectEncryption"}, {MethodCopy, "CopyObject"}} {
		t.Run(string(c.method), func(t *testing.T) {
			w := newWorld(t)
			w.putMany("p/", objects)
			e := w.engine(func(o *Options) { o.SliceSize = 0 })
			run := func(dry bool) (requests map[string]int) {
				before := w.dataRequests()
				s, err := e.Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Method: c.method, DryRun: dry}, nil)
				w.must(err)
				if s.Scanned != objects || !dry && s.Moved != objects {
					t.Fatalf("%+v", s.Counts)
				}
				requests = w.dataRequests()
				for operation := range requests {
					requests[operation] -= before[operation]
				}
				return requests
			}
			both := run(false)
			proof := run(true) // a dry run is what the verifying pass does
			first, second := 0, 0
			for operation := range both {
				first += both[operation] - proof[operation]
				second += proof[operation]
			}
			each := func(n int) float64 { return float64(n) / objects }
			t.Logf("%.4f requests per object in the pass that moves, %.4f in the one that proves: %v", each(first), each(second), both)
			if each(first) > 2.01 || each(second) > 1.01 || both[c.move] < objects {
				t.Errorf("%.4f requests per object in the pass that moves, %.4f in the one that proves: %v", each(first), each(second), both)
			}
		})
	}
}

// dataRequests returns the requests so far of the kinds that moving makes.
func (w *world) dataRequests() map[string]int {
	requests := map[string]int{}
	for _, operation := range []string{
		"ListObjectsV2", "ListObjectVersions", "HeadObject", "UpdateObjectEncryption", "CopyObject",
		"GetObject", "GetObjectAcl", "GetObjectTagging", "GetBucketVersioning",
	} {
		requests[operation] = w.aws.Requests("s3", operation)
	}
	return requests
}
