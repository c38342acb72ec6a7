package reencrypt_test

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// sealing is the name in the metadata under which the test's objects say, for the test
// alone, by which of reencrypt.Sealings a data key is in them.
const sealing = "sealing"

// sealingNames are in an order, for the dice.
var sealingNames = slices.Sorted(maps.Keys(reencrypt.Sealings))

// inMetadata are those whose data keys are in the metadata; the others have it in a body.
var inMetadata = []string{"v2", "v3"}

// populateSealed puts objects with data keys into the bucket.
func (w *truth) populateSealed() {
	draw := func(keys ...string) string { return keys[w.r.IntN(len(keys))] }
	for i := range w.sealed {
		key := "sealed/" + string(rune('a'+i%26)) + draw("", "/ü", "+%2B ", "\n")
		w.seal(sealingNames[i%len(sealingNames)], key, draw("a", "a", "b", "other", ""), draw("a", "a", "a", "b", "c", "other"), time.Time{})
		for w.versioned && w.r.IntN(4) == 0 {
			switch w.r.IntN(4) {
			case 0:
				w.remove(key)
			case 1:
				w.put(key, draw("a", "b"), time.Time{})
			default:
				w.seal(draw(sealingNames...), key, draw("a", "b", "other"), draw("a", "b", "other"), time.Time{})
			}
		}
	}
	if !w.versioned {
		return
	}
	until := time.Now().Add(30 * 24 * time.Hour)
	w.seal(draw(sealingNames...), "locked/sealed-retained", draw("a", "b", "other"), "a", time.Time{}, func(in *s3.PutObjectInput) {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockModeCompliance, &until
	})
	w.seal(draw(sealingNames...), "locked/sealed-held", draw("a", "b", "other"), "a", time.Time{}, func(in *s3.PutObjectInput) {
		in.ObjectLockLegalHoldStatus = types.ObjectLockLegalHoldStatusOn
	})
}

// seal stores an object under a key with a data key under another, and its instruction
// file where it has one.
func (w *truth) seal(name, key, under, dataKeyUnder string, written time.Time, change ...func(*s3.PutObjectInput)) {
	metadata, body, instruction := reencrypt.Sealings[name].Write(w.secrets, w.keys[dataKeyUnder], "ciphertext "+time.Duration(w.now).String())
	put := func(key, body string, metadata map[string]string) {
		o := w.put(key, under, written, append(change, func(in *s3.PutObjectInput) { in.Metadata, in.Body = metadata, strings.NewReader(body) })...)
		if o.facts.Secret != "" { // the fleet may have been quicker than the reading
			o.facts.Under = w.keys[dataKeyUnder]
		}
	}
	mark := func(metadata map[string]string) map[string]string {
		marked := map[string]string{sealing: name}
		maps.Copy(marked, metadata)
		return marked
	}
	if instruction == "" {
		put(key, body, mark(metadata))
		return
	}
	put(key, body, metadata)
	put(key+".instruction", instruction, mark(map[string]string{"x-amz-crypto-instr-file": ""}))
}

// open reads the data key of an object that has one, and takes out of the facts what a
// re-wrap may change.
func (a *account) open(f *facts) {
	a.t.Helper()
	f.Sealing = f.Metadata[sealing]
	if f.Sealing == "" || f.inBody() && f.StorageClass == string(types.StorageClassGlacier) {
		return
	}
	wrapped, about := reencrypt.Sealings[f.Sealing].Find(f.Metadata, f.Body, f.Body)
	f.Secret, f.Under = a.secrets.Secret(wrapped, about)
	metadata := map[string]string{}
	for name, value := range f.Metadata {
		metadata[name] = reencrypt.Blank(value, wrapped, f.Under)
	}
	f.Metadata = metadata
	if f.inBody() {
		f.Body = reencrypt.Blank(f.Body, wrapped, f.Under)
		for i, sum := range f.Checksum {
			f.Checksum[i] = strings.Repeat("x", len(sum))
		}
	}
}

func (f *facts) inBody() bool { return !slices.Contains(inMetadata, f.Sealing) }

// looked reports whether the jobs look for the data key of an object.
func (w *truth) looked(f facts) bool {
	switch {
	case f.Sealing == "", w.envelopes == reencrypt.EnvelopesOff:
		return false
	case f.inBody() && !strings.HasSuffix(f.Sealing, "-instruction"):
		return w.envelopes == reencrypt.EnvelopesContent
	}
	return true
}

// copies reports whether the jobs may make new versions.
func (w *truth) copies() bool {
	return w.method == reencrypt.MethodCopy || w.envelopes != reencrypt.EnvelopesOff
}

// ofDataKeys reports whether a row is of data keys alone: S3's own encryption of the object
// was moved, or needed nothing.
func ofDataKeys(row reencrypt.Refusal) bool {
	return strings.HasPrefix(row.Detail, "client-side encryption ")
}

// unsure are the reasons by which nothing is claimed: an answer that is lost does not say
// what was done.
var unsure = []reencrypt.Reason{reencrypt.ReasonError, reencrypt.ReasonChanging, reencrypt.ReasonDiffers}

// dataKeyAllowed returns the keys under which the data key of an object version may be
// now, or that of its copies, whose versions are given.
func (w *truth) dataKeyAllowed(o *record, jobs []finished, copies ...string) []string {
	at := []string{o.facts.Under}
	if first := w.keys["b"]; jobs[0].To != first && o.facts.Under == w.keys["a"] && w.looked(o.facts) {
		at = append(at, first) // by the job before, which was superseded
	}
	for _, j := range jobs {
		var next []string
		for _, key := range at {
			row := j.row(o.key, o.version, copies)
			switch {
			case !slices.Contains(j.From, key), !w.looked(o.facts):
				next = append(next, key)
			case slices.Contains(unsure, row.Reason), o.written.After(j.began), row.Reason == reencrypt.ReasonEnvelopeKMS:
				// What KMS denies may be allowed by when a worker that was frozen gets to it.
				next = append(next, key, j.To)
			case row.Reason != "" && (row.Reason != reencrypt.ReasonNoncurrent || copies == nil):
				next = append(next, key)
			default:
				next = append(next, j.To)
			}
		}
		at = next
	}
	return at
}

// row returns what the report says of a version and its copies: what says most.
func (j *finished) row(key, version string, copies []string) (most reencrypt.Refusal) {
	for _, id := range append([]string{version}, copies...) {
		row, ok := j.rows[[2]string{key, id}]
		if ok && (most.Reason == "" || most.Reason == reencrypt.ReasonNoncurrent || slices.Contains(unsure, row.Reason)) {
			most = row
		}
	}
	return most
}

// checkNamed checks that no data key stays under an old key that the report does not name.
func (w *truth) checkNamed(t *testing.T, key string, have *found, last finished) {
	for _, o := range have.versions {
		i := slices.IndexFunc(w.want[key], func(want *record) bool { return want.version == o.version })
		late := i >= 0 && w.want[key][i].written.After(last.began)
		if _, named := last.rows[[2]string{o.key, o.version}]; !named && !late && w.looked(o.facts) && slices.Contains(last.From, o.facts.Under) {
			t.Errorf("%q version %s: its data key (%s) is under an old key, and the report does not name it", o.key, o.version, o.facts.Sealing)
		}
	}
}

// fits reports whether the data key of an object version is as a row of it says.
func (w *truth) fits(o *record, row reencrypt.Refusal, current bool, job finished) bool {
	old := slices.Contains(job.From, o.facts.Under)
	switch row.Reason {
	case reencrypt.ReasonObjectLock:
		return old && o.facts.Lock[0]+o.facts.Lock[1] != ""
	case reencrypt.ReasonDSSE:
		return old && o.facts.Encryption == "aws:kms:dsse"
	case reencrypt.ReasonArchived:
		return old && o.facts.StorageClass == "GLACIER"
	case reencrypt.ReasonNoncurrent:
		return old && w.versioned && (!current || w.writes > 0)
	case reencrypt.ReasonEnvelopeFile:
		return old && !w.rewrite && o.facts.inBody()
	case reencrypt.ReasonEnvelopeKMS:
		return w.denials != never
	case reencrypt.ReasonEnvelopeUnread:
		return o.facts.StorageClass == "GLACIER" && (w.envelopes == reencrypt.EnvelopesContent || strings.HasSuffix(o.key, ".instruction"))
	case reencrypt.ReasonEnvelopeInstruction:
		return o.facts.Metadata["x-amz-c"] != "" && w.writes > 0
	default:
		return false
	}
}

// denied answers a request in KMS's place while the fleet may not re-encrypt data keys.
func (f *fleet) denied(r *http.Request) *http.Response {
	if !f.denying.Load() || r.Header.Get("X-Amz-Target") != "TrentService.ReEncrypt" {
		return nil
	}
	f.survived.denied.Add(1)
	return &http.Response{
		StatusCode: http.StatusBadRequest, Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(`{"__type":"AccessDeniedException","message":"not authorized to perform: kms:ReEncryptFrom"}`)),
	}
}

// checkTrail checks in CloudTrail that no worker has asked KMS for a data key, or to read
// or encrypt anything: S3 does, for it.
func (f *fleet) checkTrail(t *testing.T) {
	all := f.server.Trail().History()
	if len(all) == 0 || all[0].Number != len(all) {
		t.Errorf("CloudTrail has forgotten some of %d records", len(all))
	}
	for _, kept := range all {
		r := kept.Record()
		if r.EventSource != "kms.amazonaws.com" || r.UserIdentity.AccessKeyID != "worker" {
			continue
		}
		switch r.EventName {
		case "Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext":
			if r.UserIdentity.InvokedBy == "" {
				t.Errorf("a worker has called %s of KMS at %s", r.EventName, r.EventTime)
			}
			f.survived.byS3.Add(1)
		case "ReEncrypt":
			if r.UserIdentity.InvokedBy == "" {
				f.survived.rewraps.Add(1)
			}
		}
	}
}
