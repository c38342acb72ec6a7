package reencrypt_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/worker"
)

// facts are all that can be seen of an object version.
type facts struct {
	Body               string // "" where it is archived
	Size               int64
	Encryption, KMSKey string
	BucketKey          bool
	StorageClass       string
	Checksum           [2]string
	Headers            [7]string
	Metadata           map[string]string
	Tags               []string
	Lock               [3]string
	ETag, LastModified string
	// Of the data key in it, where it has one; what a re-wrap may change is not in Body,
	// Metadata and Checksum then.
	Sealing, Secret, Under string
}

// record is an object version, or a delete marker, as it was before the fleet
// touched it.
type record struct {
	key, version string
	marker       bool
	facts        facts
	// written is when somebody else wrote it; zero where it was there before.
	written time.Time
}

// truth is what must be in the data bucket, but for the keys. It knows what the
// test put there and nothing of the code that it is held against.
type truth struct {
	*account
	scenario
	r    *rand.Rand
	want map[string][]*record // by object key, the oldest first; one at most where there are no versions
	// underOld counts what others write under the old key: a job gives up when that
	// does not end.
	underOld int
	now      int // makes bodies different
	// touched has the key of an object of which a worker has just read something.
	touched <-chan string
	foreign int
}

func newTruth(a *account, s scenario, touched <-chan string) *truth {
	return &truth{account: a, scenario: s, touched: touched, r: rand.New(rand.NewPCG(s.seed, 4)), want: map[string][]*record{}}
}

var oddNames = []string{"sp ace", "pl+us", "per%41cent", "ümlaut/ü", "a//b", "q?x=1&y=2#z", "ctrl\x01\x1f", "dot/./..", "\U0001F511", "quote\"'<>"}

// populate fills the bucket.
func (w *truth) populate() {
	for i := range w.objects {
		key := fmt.Sprintf("%c/%04d", 'a'+rune(i%3), i)
		if i < len(oddNames) {
			key = oddNames[i]
		}
		w.put(key, []string{"a", "a", "a", "a", "a", "b", "other", "c", ""}[w.r.IntN(9)], time.Time{})
		for w.versioned && w.r.IntN(4) == 0 {
			if w.r.IntN(4) == 0 {
				w.remove(key)
			} else {
				w.put(key, []string{"a", "b"}[w.r.IntN(2)], time.Time{})
			}
		}
	}
	if !w.versioned {
		return
	}
	until := time.Now().Add(30 * 24 * time.Hour)
	w.put("locked/retained", "a", time.Time{}, func(in *s3.PutObjectInput) {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockModeGovernance, &until
	})
	w.put("locked/held", "a", time.Time{}, func(in *s3.PutObjectInput) { in.ObjectLockLegalHoldStatus = types.ObjectLockLegalHoldStatusOn })
}

// meddle is everybody else who uses the bucket while it is re-encrypted.
func (w *truth) meddle(ctx context.Context) {
	for range w.writes {
		pause(ctx, time.Duration(w.r.IntN(12_000))*time.Millisecond)
		w.foreign++
		names := slices.Sorted(maps.Keys(w.want))
		key := names[w.r.IntN(len(names))]
		if w.r.IntN(3) > 0 { // between a worker's reading and its writing
			key = cmp.Or(w.wait(ctx, []string{"", "sealed/"}[w.r.IntN(2)]), key)
		}
		under := []string{"a", "a", "b", "c", "other", ""}[w.r.IntN(6)]
		if under == "a" {
			if w.underOld++; w.underOld > 5 {
				under = "other"
			}
		}
		switch n := w.r.IntN(10); {
		case strings.HasPrefix(key, "locked/"), n < 2:
			w.put(fmt.Sprintf("%c/new-%d", 'a'+rune(w.r.IntN(4)), w.foreign), under, time.Now())
		case n < 5:
			w.put(key, under, time.Now())
		case n < 7:
			dataKeyUnder := []string{"a", "b", "other"}[w.r.IntN(3)]
			if dataKeyUnder == "a" {
				if w.underOld++; w.underOld > 5 {
					dataKeyUnder = "b"
				}
			}
			w.seal(sealingNames[w.r.IntN(len(sealingNames))], key, under, dataKeyUnder, time.Now())
		case n < 9 || !w.versioned || w.copies():
			w.remove(key)
		default:
			w.erase(key)
		}
	}
}

// wait waits until a worker has read something of an object with the prefix, and returns
// its key; "" where none does soon.
func (w *truth) wait(ctx context.Context, prefix string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		select {
		case key := <-w.touched:
			if _, ok := w.want[key]; ok && strings.HasPrefix(key, prefix) {
				return key
			}
		case <-ctx.Done():
			return ""
		}
	}
}

// put stores an object version under a key, "" for a key of S3's own.
func (w *truth) put(key, under string, written time.Time, change ...func(*s3.PutObjectInput)) *record {
	w.now++
	in := &s3.PutObjectInput{
		Bucket: aws.String(dataBucket), Key: &key, Body: strings.NewReader(strings.Repeat(fmt.Sprintf("body %d ", w.now), w.r.IntN(4))),
		ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: aws.String(w.keys[under]),
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
	}
	if under == "" {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAes256, nil
	}
	switch w.r.IntN(8) {
	case 0:
		in.Metadata = map[string]string{"owner": "team a", "n": fmt.Sprint(w.now)}
	case 1:
		in.Tagging = aws.String("class=secret&a%20b=c%2Bd")
	case 2:
		in.StorageClass = []types.StorageClass{types.StorageClassStandardIa, types.StorageClassGlacierIr, types.StorageClassIntelligentTiering, types.StorageClassGlacier}[w.r.IntN(4)]
	case 3:
		if under != "" {
			in.BucketKeyEnabled = aws.Bool(true)
		}
	case 4:
		in.ChecksumAlgorithm = types.ChecksumAlgorithmSha256
	case 5:
		in.CacheControl, in.ContentDisposition, in.ContentType = aws.String("no-cache"), aws.String(`attachment; filename="x"`), aws.String("text/x-odd; charset=latin1")
		in.ContentEncoding, in.ContentLanguage, in.WebsiteRedirectLocation = aws.String("gzip"), aws.String("de"), aws.String("/elsewhere")
		in.Expires = aws.Time(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	case 6:
		if under != "" {
			in.ServerSideEncryption = types.ServerSideEncryptionAwsKmsDsse
		}
	}
	for _, f := range change {
		f(in)
	}
	out, err := w.s3.PutObject(w.t.Context(), in)
	w.must(err)
	version := aws.ToString(out.VersionId)
	got := w.read(key, version)
	// The fleet may have been quicker than this reading.
	got.Encryption, got.KMSKey = string(in.ServerSideEncryption), aws.ToString(in.SSEKMSKeyId)
	o := &record{key: key, version: version, facts: got, written: written}
	w.add(o)
	return o
}

func (w *truth) add(o *record) {
	if !w.versioned {
		w.want[o.key] = nil
	}
	w.want[o.key] = append(w.want[o.key], o)
}

// remove deletes an object as people do: what it was stays where there are versions.
func (w *truth) remove(key string) {
	out, err := w.s3.DeleteObject(w.t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(dataBucket), Key: &key})
	w.must(err)
	if !w.versioned {
		w.want[key] = nil
		return
	}
	w.add(&record{key: key, version: *out.VersionId, marker: true})
}

// erase deletes one version for good.
func (w *truth) erase(key string) {
	if len(w.want[key]) == 0 {
		return
	}
	i := w.r.IntN(len(w.want[key]))
	_, err := w.s3.DeleteObject(w.t.Context(), &s3.DeleteObjectInput{Bucket: aws.String(dataBucket), Key: &key, VersionId: &w.want[key][i].version})
	w.must(err)
	w.want[key] = slices.Delete(w.want[key], i, i+1)
}

func (a *account) read(key, version string) facts {
	a.t.Helper()
	var id *string
	if version != "" {
		id = &version
	}
	ctx, bucket := a.t.Context(), aws.String(dataBucket)
	h, err := a.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: &key, VersionId: id, ChecksumMode: types.ChecksumModeEnabled})
	a.must(err)
	f := facts{
		Size: aws.ToInt64(h.ContentLength), Encryption: string(h.ServerSideEncryption), KMSKey: aws.ToString(h.SSEKMSKeyId), BucketKey: aws.ToBool(h.BucketKeyEnabled),
		StorageClass: string(h.StorageClass), Checksum: [2]string{aws.ToString(h.ChecksumCRC32), aws.ToString(h.ChecksumSHA256)}, Metadata: h.Metadata,
		Lock: [3]string{string(h.ObjectLockMode), string(h.ObjectLockLegalHoldStatus), fmt.Sprint(aws.ToTime(h.ObjectLockRetainUntilDate))},
		ETag: aws.ToString(h.ETag), LastModified: h.LastModified.String(),
	}
	for i, s := range []*string{h.CacheControl, h.ContentDisposition, h.ContentEncoding, h.ContentLanguage, h.ContentType, h.ExpiresString, h.WebsiteRedirectLocation} {
		f.Headers[i] = aws.ToString(s)
	}
	if h.StorageClass != types.StorageClassGlacier {
		out, err := a.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: &key, VersionId: id})
		a.must(err)
		defer out.Body.Close()
		body, err := io.ReadAll(out.Body)
		a.must(err)
		f.Body = string(body)
	}
	tags, err := a.s3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: bucket, Key: &key, VersionId: id})
	a.must(err)
	for _, tag := range tags.TagSet {
		f.Tags = append(f.Tags, *tag.Key+"="+*tag.Value)
	}
	slices.Sort(f.Tags)
	a.open(&f)
	return f
}

// found is what the bucket has of an object: versions and delete markers, each
// the oldest first (how the two mix no listing shows), and the current one of them.
type found struct {
	versions, markers []*record
	current           *record
}

// contents reads the bucket as it is.
func (w *truth) contents() map[string]*found {
	w.t.Helper()
	all := map[string]*found{}
	out, err := w.s3.ListObjectVersions(w.t.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(dataBucket), EncodingType: types.EncodingTypeUrl})
	w.must(err)
	if aws.ToBool(out.IsTruncated) {
		w.t.Fatal("the bucket has more versions than a page")
	}
	at := func(key, version *string, latest *bool, marker bool) (*found, *record) {
		name, err := url.QueryUnescape(*key)
		w.must(err)
		o := &record{key: name, version: *version, marker: marker}
		if !w.versioned {
			o.version = ""
		}
		if all[name] == nil {
			all[name] = &found{}
		}
		if *latest {
			all[name].current = o
		}
		return all[name], o
	}
	for _, v := range slices.Backward(out.Versions) {
		f, o := at(v.Key, v.VersionId, v.IsLatest, false)
		o.facts = w.read(o.key, o.version)
		f.versions = append(f.versions, o)
	}
	for _, m := range slices.Backward(out.DeleteMarkers) {
		f, o := at(m.Key, m.VersionId, m.IsLatest, true)
		f.markers = append(f.markers, o)
	}
	return all
}

// finished is a job that said it is complete.
type finished struct {
	reencrypt.Summary
	rows  map[[2]string]reencrypt.Refusal // by key and version
	began time.Time                       // of its last pass
}

// finished returns the complete jobs in their order, after a look at whether what
// they say is consistent.
func (f *fleet) finished(t *testing.T) []finished {
	var jobs []finished
	for _, s := range f.completed {
		if i := slices.IndexFunc(jobs, func(j finished) bool { return j.Job == s.Job }); i >= 0 {
			if f.skew > 0 { // read by two clocks
				s.Started, s.Finished = jobs[i].Started, jobs[i].Finished
			}
			if d := gocmp.Diff(jobs[i].Summary, s); d != "" {
				t.Errorf("job %s was told twice, differently: %s", s.Job, d)
			}
			continue
		}
		j := finished{Summary: s, rows: map[[2]string]reencrypt.Refusal{}}
		reasons := map[reencrypt.Reason]int64{}
		if s.Report != "" {
			body, ok := f.blob(strings.TrimPrefix(s.Report, "s3://"+stateBucket+"/"))
			if !ok {
				t.Errorf("job %s has no report at %s", s.Job, s.Report)
			}
			for d := json.NewDecoder(bytes.NewReader(body)); d.More(); {
				var row reencrypt.Refusal
				if err := d.Decode(&row); err != nil {
					t.Fatal(err)
				}
				j.rows[[2]string{row.Key, row.Version}] = row
				reasons[row.Reason]++
			}
		}
		var all, left int64
		for reason, n := range s.ByReason {
			all += n
			if reasons[reason] > 0 && reasons[reason] != n {
				t.Errorf("job %s counts %d %s, its report has %d", s.Job, n, reason, reasons[reason])
			}
			left += reasons[reason]
		}
		if s.Scanned != s.Moved+s.Skipped+s.Refused+s.Failed || all != s.Skipped+s.Refused+s.Failed || left != s.Refused+s.Failed {
			t.Errorf("job %s: counts do not add up: %+v, %d rows", s.Job, s.Counts, left)
		}
		var plan struct{ Began time.Time }
		if !f.document(fmt.Sprintf("jobs/%s/plans/%d.json", s.Job, s.Passes), &plan) {
			t.Errorf("job %s has no plan of its last pass, %d", s.Job, s.Passes)
		}
		j.began = plan.Began.Add(-time.Minute) // by somebody's clock, which may be wrong
		totals := f.stateKeys(fmt.Sprintf("jobs/%s/totals/%d/", s.Job, s.Passes))
		for _, key := range totals {
			var total struct{ Counts reencrypt.Counts }
			if f.document(strings.TrimPrefix(key, statePrefix), &total); total.Counts.Moved > 0 {
				t.Errorf("job %s is complete, but its last pass moved %d versions", s.Job, total.Counts.Moved)
			}
		}
		if len(totals) == 0 {
			t.Errorf("job %s: its last pass has no totals", s.Job)
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// check compares the bucket, and what the jobs say of it, with what must be.
func check(t *testing.T, f *fleet, w *truth) {
	jobs := f.finished(t)
	to := f.keys["b"]
	if f.again != "" {
		to = f.keys[f.again]
	}
	last := jobs[len(jobs)-1]
	if last.To != to {
		t.Errorf("the last job moved to %s, the alias points to %s", last.To, to)
	}
	f.checkState(t, jobs)
	now := w.contents()
	for key := range now {
		if w.want[key] == nil {
			w.want[key] = []*record{}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.want)) {
		have := now[key]
		if have == nil {
			have = &found{}
		}
		if w.versioned && w.copies() {
			w.checkCopied(t, key, have, jobs)
		} else {
			w.checkInPlace(t, key, have, jobs)
		}
		w.checkNamed(t, key, have, last)
	}
	w.checkRows(t, now, last)
	f.checkBounds(t)
	f.checkTrail(t)
}

// checkState checks that everything is told and nothing is left open.
func (f *fleet) checkState(t *testing.T, jobs []finished) {
	if open := f.stateKeys("jobs/open/"); len(open) > 0 {
		t.Errorf("jobs are still open: %s", open)
	}
	for _, key := range f.stateKeys("jobs/") {
		var job struct {
			ID, State string
		}
		if !strings.HasSuffix(key, "/job.json") || !f.document(strings.TrimPrefix(key, statePrefix), &job) {
			continue
		}
		told := slices.ContainsFunc(jobs, func(j finished) bool { return j.Job == job.ID })
		if told != (job.State == "complete") || !told && job.State != "superseded" {
			t.Errorf("job %s is %s; told that it is complete: %t", job.ID, job.State, told)
		}
	}
	out, err := f.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &f.dead, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}})
	f.must(err)
	for _, m := range out.Messages {
		if reason, ok := m.MessageAttributes[worker.AttributeReason]; ok {
			t.Errorf("a message was rejected: %s: %s", *m.Body, *reason.StringValue)
		}
	}
}

// allowed returns the keys under which an object version may be now, or those of its copies
// whose versions are given.
func (w *truth) allowed(o *record, jobs []finished, copies ...string) []string {
	at, tos := []string{o.facts.KMSKey}, []string{w.keys["b"], w.keys[cmp.Or(w.again, "b")]}
	for _, j := range jobs {
		var next []string
		for _, key := range at {
			row, late := j.row(o.key, o.version, copies), o.written.After(j.began)
			copied := w.method == reencrypt.MethodCopy && row.Reason == reencrypt.ReasonNoncurrent
			switch {
			case !slices.Contains(j.From, key):
				next = append(next, key)
			case late, slices.Contains(unsure, row.Reason):
				next = append(next, key, j.To)
			case row.Reason != "" && !copied && !ofDataKeys(row):
				next = append(next, key)
			default:
				next = append(next, j.To)
			}
		}
		at = next
	}
	late := o.written.After(jobs[len(jobs)-1].began) && slices.Contains(append(tos, w.keys["a"]), o.facts.KMSKey)
	if late || w.raced(o) {
		at = append(at, tos...)
	}
	return at
}

// raced reports whether a writer may have come between the reading of an object
// and its update, which then took the new one along.
func (w *truth) raced(o *record) bool {
	return !w.versioned && w.method != reencrypt.MethodCopy && !o.written.IsZero()
}

// same compares an object version with what it must be.
func (w *truth) same(t *testing.T, what string, o *record, have facts, allowed, dataKeyAllowed []string, copied bool) {
	if !slices.Contains(allowed, have.KMSKey) {
		t.Errorf("%q version %s: %s is under %q, was written under %q (at %s): may be under %q", o.key, o.version, what, have.KMSKey, o.facts.KMSKey, o.written, allowed)
	}
	if !slices.Contains(dataKeyAllowed, have.Under) {
		t.Errorf("%q version %s: %s has its data key (%s) under %q, was written under %q (at %s): may be under %q", o.key, o.version, what, o.facts.Sealing, have.Under, o.facts.Under, o.written, dataKeyAllowed)
	}
	want := o.facts
	want.KMSKey, want.Under = have.KMSKey, have.Under
	if copied {
		want.ETag, want.LastModified = have.ETag, have.LastModified
	}
	if w.raced(o) {
		want.Encryption, want.BucketKey = have.Encryption, have.BucketKey
	}
	if d := gocmp.Diff(want, have); d != "" {
		t.Errorf("%q version %s: %s: %s", o.key, o.version, what, d)
	}
}

func ids(list []*record) (ids []string) {
	for _, o := range list {
		ids = append(ids, o.version)
	}
	return ids
}

// checkInPlace checks an object whose versions are what they were.
func (w *truth) checkInPlace(t *testing.T, key string, have *found, jobs []finished) {
	var versions, markers []*record
	for _, o := range w.want[key] {
		if o.marker {
			markers = append(markers, o)
		} else {
			versions = append(versions, o)
		}
	}
	if !slices.Equal(ids(versions), ids(have.versions)) || !slices.Equal(ids(markers), ids(have.markers)) {
		t.Errorf("%q has versions %q and markers %q, want %q and %q", key, ids(have.versions), ids(have.markers), ids(versions), ids(markers))
		return
	}
	if n := len(w.want[key]); n > 0 && have.current.version != w.want[key][n-1].version {
		t.Errorf("%q: the current version is %s, was %s", key, have.current.version, w.want[key][n-1].version)
	}
	for i, o := range versions {
		w.same(t, "it", o, have.versions[i].facts, w.allowed(o, jobs), w.dataKeyAllowed(o, jobs), w.method == reencrypt.MethodCopy || w.looked(o.facts))
	}
}

// checkCopied checks an object whose current version may have been copied: all
// versions that were there are as they were, in their order, and whatever came in
// between is a copy of what it came after.
func (w *truth) checkCopied(t *testing.T, key string, have *found, jobs []finished) {
	var originals []*record
	var markers, copies []string // of the newest original
	for _, o := range w.want[key] {
		if o.marker {
			markers = append(markers, o.version)
		} else {
			originals = append(originals, o)
		}
	}
	if d := gocmp.Diff(markers, ids(have.markers)); d != "" {
		t.Errorf("%q: delete markers: %s", key, d)
	}
	seen := 0 // of the originals
	for _, h := range have.versions {
		switch {
		case seen < len(originals) && originals[seen].version == h.version:
			o := originals[seen]
			seen, copies = seen+1, nil
			allowed := []string{o.facts.KMSKey}
			if w.method != reencrypt.MethodCopy {
				allowed = w.allowed(o, jobs)
			}
			w.same(t, "the original", o, h.facts, allowed, []string{o.facts.Under}, false)
		case seen == 0:
			t.Errorf("%q: version %s is a copy of nothing: %+v", key, h.version, h.facts)
		default:
			copies = append(copies, h.version)
			w.copied(t, originals[seen-1], h)
		}
	}
	if seen < len(originals) {
		t.Errorf("%q: version %s is gone, or out of order", key, originals[seen].version)
	}
	if len(w.want[key]) == 0 {
		return
	}
	o := w.want[key][len(w.want[key])-1]
	if o.marker {
		if have.current.version != o.version {
			t.Errorf("%q was deleted and has a current version again: %s", key, have.current.version)
		}
		return
	}
	w.same(t, "the current version", o, have.current.facts, w.allowed(o, jobs, copies...), w.dataKeyAllowed(o, jobs, copies...), len(copies) > 0)
}

// copied checks that a version is a copy of an original that a job had a reason to make.
func (w *truth) copied(t *testing.T, o, h *record) {
	f, tos := o.facts, []string{w.keys["b"], w.keys[cmp.Or(w.again, "b")]}
	moved := w.method == reencrypt.MethodCopy && slices.Contains(tos, h.facts.KMSKey) || w.looked(f) && slices.Contains(tos, h.facts.Under)
	if h.facts.KMSKey != f.KMSKey && !slices.Contains(tos, h.facts.KMSKey) || h.facts.Under != f.Under && !slices.Contains(tos, h.facts.Under) {
		moved = false
	}
	f.KMSKey, f.Under, f.ETag, f.LastModified = h.facts.KMSKey, h.facts.Under, h.facts.ETag, h.facts.LastModified
	if d := gocmp.Diff(f, h.facts); d != "" || !moved {
		t.Errorf("%q: version %s is no copy of %s: %+v, %s", h.key, h.version, o.version, h.facts, d)
	}
}

// checkRows checks that the last job's report names what is there, for a reason
// that it has.
func (w *truth) checkRows(t *testing.T, now map[string]*found, job finished) {
	versions, onTarget := 0, 0
	there := map[[2]string]*record{}
	for _, f := range now {
		versions += len(f.versions) + len(f.markers)
		for _, o := range f.versions {
			there[[2]string{o.key, o.version}] = o
			if o.facts.KMSKey == job.To {
				onTarget++
			}
		}
	}
	for id, row := range job.rows {
		o := there[id]
		if o == nil || !w.versioned && w.writes > 0 { // others have deleted or overwritten it
			if w.writes == 0 {
				t.Errorf("the report names %q, which is not there", id)
			}
			continue
		}
		if slices.Contains(unsure, row.Reason) {
			continue // nothing is claimed
		}
		if ofDataKeys(row) {
			if !w.fits(o, row, now[o.key].current.version == o.version, job) {
				t.Errorf("the report says %s of %q (%s), which is %+v", row.Reason, id, row.Detail, o.facts)
			}
			continue
		}
		fits := false
		switch row.Reason {
		case reencrypt.ReasonObjectLock:
			fits = o.facts.Lock[0]+o.facts.Lock[1] != ""
		case reencrypt.ReasonDSSE:
			fits = o.facts.Encryption == "aws:kms:dsse"
		case reencrypt.ReasonArchived:
			fits = w.method == reencrypt.MethodCopy && o.facts.StorageClass == "GLACIER"
		case reencrypt.ReasonNoncurrent:
			fits = w.method == reencrypt.MethodCopy && w.versioned && (now[o.key].current.version != o.version || w.writes > 0)
		default: // no object of these plays is refused or fails for another reason
		}
		if !fits || !slices.Contains(job.From, o.facts.KMSKey) {
			t.Errorf("the report says %s of %q (%s), which is %+v", row.Reason, id, row.Detail, o.facts)
		}
	}
	if w.writes > 0 || w.method == reencrypt.MethodCopy && w.versioned {
		return
	}
	if int(job.Scanned) != versions {
		t.Errorf("the job has seen %d versions, there are %d", job.Scanned, versions)
	}
	if w.envelopes != reencrypt.EnvelopesOff {
		return // what is on the new key may be refused for its data key
	}
	if n := int(job.Moved + job.ByReason[reencrypt.ReasonOnTarget]); n != onTarget && job.Failed == 0 {
		t.Errorf("the job says that %d versions are on the new key, there are %d", n, onTarget)
	}
}

// checkBounds checks that the fleet kept within what it was allowed. Work that is
// held up between the rate's leave and its request is at most what a worker may
// have in hand.
func (f *fleet) checkBounds(t *testing.T) {
	allowed := int64(f.concurrency)
	if f.twins {
		allowed *= 2
	}
	if f.busiest > allowed {
		t.Errorf("a worker had %d objects in hand, %d are allowed", f.busiest, allowed)
	}
	for _, still := range f.still {
		for _, at := range f.writes {
			if f.again == "" && at.After(still.from) && at.Before(still.to) {
				t.Errorf("an object was written at %s, the job was paused from %s to %s", at, still.from, still.to)
			}
		}
	}
	if f.rate == 0 {
		return
	}
	const window = time.Minute
	burst := float64(f.workers) * float64(1+f.concurrency)
	for i, j := 0, 0; j < len(f.writes); j++ {
		for f.writes[j].Sub(f.writes[i]) > window {
			i++
		}
		if n := float64(j - i + 1); n > f.rate*window.Seconds()+burst {
			t.Errorf("%.0f writes in a minute before %s, the fleet's rate is %.1f per second", n, f.writes[j], f.rate)
			return
		}
	}
}
