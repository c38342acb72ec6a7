package rotate_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"

	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/rotate"
	"github.com/cmkeeper/cmkeeper/state"
)

var (
	aboutV2   = map[string]string{"aws:x-amz-cek-alg": "AES/GCM/NoPadding"}
	aboutSOPS = map[string]string{"tenant": "a"}
)

const aliasARN = "arn:aws:kms:" + region + ":" + account + ":" + app

// dataKey returns a data key that is wrapped under a key of KMS.
func (w *world) dataKey(under string, about map[string]string) string {
	w.t.Helper()
	out, err := w.kms.GenerateDataKey(w.t.Context(), &kms.GenerateDataKeyInput{KeyId: &under, NumberOfBytes: aws.Int32(32), EncryptionContext: about})
	w.must(err)
	return base64.StdEncoding.EncodeToString(out.CiphertextBlob)
}

// sealMetadata writes an object as the S3 Encryption Client does, with a data key under a
// key, and S3's own encryption under another.
func (w *world) sealMetadata(bucket, key, under, s3Key string) {
	w.t.Helper()
	matdesc, err := json.Marshal(aboutV2)
	w.must(err)
	_, err = w.s3.PutObject(w.t.Context(), &s3.PutObjectInput{
		Bucket: &bucket, Key: &key, Body: strings.NewReader("encrypted"), ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &s3Key,
		Metadata: map[string]string{
			"x-amz-key-v2": w.dataKey(under, aboutV2), "x-amz-iv": "AAAAAAAAAAAAAAAA", "x-amz-wrap-alg": "kms+context", "x-amz-cek-alg": "AES/GCM/NoPadding",
			"x-amz-matdesc": string(matdesc), "x-amz-tag-len": "128",
		},
	})
	w.must(err)
}

// sealFile writes a SOPS file whose data key is under the key or alias that it names.
func (w *world) sealFile(bucket, key, under, s3Key string) {
	w.t.Helper()
	_, err := w.s3.PutObject(w.t.Context(), &s3.PutObjectInput{
		Bucket: &bucket, Key: &key, ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &s3Key,
		Body: strings.NewReader(fmt.Sprintf("a: ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]\nsops:\n  kms:\n  - arn: %s\n    context:\n      tenant: a\n    enc: %s\n  lastmodified: x\n  version: 3.0.0\n", under, w.dataKey(under, aboutSOPS))),
	})
	w.must(err)
}

// secrets reads the data keys of objects, as applications do, and the keys that they and
// the objects are under.
func (w *world) secrets(objects map[string]string) (secrets, under map[string]string) {
	w.t.Helper()
	secrets, under = map[string]string{}, map[string]string{}
	for key, bucket := range objects {
		o, err := w.s3.GetObject(w.t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: &key})
		w.must(err)
		body, err := io.ReadAll(o.Body)
		w.must(err)
		in := &kms.DecryptInput{EncryptionContext: aboutV2}
		wrapped := o.Metadata["x-amz-key-v2"]
		if wrapped == "" {
			line := func(name string) string {
				_, text, _ := strings.Cut(string(body), name+": ")
				text, _, _ = strings.Cut(text, "\n")
				return text
			}
			wrapped = line("enc")
			in.EncryptionContext, in.KeyId = aboutSOPS, aws.String(line("arn"))
		}
		in.CiphertextBlob, err = base64.StdEncoding.DecodeString(wrapped)
		w.must(err)
		out, err := w.kms.Decrypt(w.t.Context(), in)
		if err != nil {
			w.t.Errorf("the data key of %s/%s: %v", bucket, key, err)
			continue
		}
		secrets[key], under[key] = string(out.Plaintext), *out.KeyId+" "+*o.SSEKMSKeyId
	}
	return secrets, under
}

// without runs a part of the test while a key is disabled.
func (w *world) without(key string, do func()) {
	w.t.Helper()
	_, err := w.kms.DisableKey(w.t.Context(), &kms.DisableKeyInput{KeyId: &key})
	w.must(err)
	do()
	_, err = w.kms.EnableKey(w.t.Context(), &kms.EnableKeyInput{KeyId: &key})
	w.must(err)
}

var all = rotate.Choices{Envelopes: reencrypt.EnvelopesContent, RewriteFiles: true}

// TestRotateDataKeys rotates a key under which applications have data keys, with processes
// that are killed after each write, and undoes that. At each end one of the two keys is
// enough to read everything.
func TestRotateDataKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		created, err := w.kms.CreateKey(t.Context(), &kms.CreateKeyInput{})
		w.must(err)
		other := *created.KeyMetadata.Arn
		w.bucket("plain", "") // in which nothing else is
		w.sealMetadata("plain", "metadata", w.old, other)
		w.sealFile("plain", "file", w.old, other)
		w.sealFile("plain", "by-alias", aliasARN, other)
		w.sealMetadata(byARN, "both", w.old, w.old)
		objects := map[string]string{"metadata": "plain", "file": "plain", "by-alias": "plain", "both": byARN}
		before, _ := w.secrets(objects)
		stop := w.fleet()

		plan, err := w.machine(nil).rotator.Plan(t.Context(), app, []string{logs}, all, 0)
		w.must(err)
		moves := plan.Steps[slices.IndexFunc(plan.Steps, func(s rotate.PlanStep) bool { return s.Step == rotate.StepMoveData })]
		if want := "Data keys of client-side encryption that move: s3-client-v2 in 2 object versions, sops in 2 object versions."; !strings.HasSuffix(moves.What, want) || len(moves.Notes) != 1 || len(plan.Stops) > 0 || len(plan.Left) > 0 {
			t.Errorf("plan: %+v, left %v, stops %q", moves, plan.Left, plan.Stops)
		}

		rec, kills := w.chain(func(m *machine) (rotate.Record, error) { return m.begin(all) })
		if len(ids(rec)) > 0 || rec.State != rotate.StateDone || kills == 0 || !slices.ContainsFunc(rec.Notes, func(n string) bool { return strings.Contains(n, "in the formats that are known") }) {
			t.Errorf("the rotation is %s, left are %v, notes %q, %d were killed", rec.State, rec.Left, rec.Notes, kills)
		}
		w.without(w.old, func() {
			now, under := w.secrets(objects)
			want := map[string]string{"metadata": rec.New + " " + other, "file": rec.New + " " + other, "by-alias": rec.New + " " + other, "both": rec.New + " " + rec.New}
			if diff := cmp.Diff(want, under); diff != "" || !maps.Equal(before, now) {
				t.Errorf("rotated, the secrets are the same: %t; keys of data keys and objects (-want +got):\n%s", maps.Equal(before, now), diff)
			}
		})
		// Builds that know no data keys must not go on with it.
		var head struct{ Schema string }
		w.must(json.Unmarshal(w.document("cmkeeper/rotations/id/"+state.Segment(rec.ID)+".json"), &head))
		if head.Schema != "cmkeeper.rotation.v2" {
			t.Errorf("the record's schema is %s", head.Schema)
		}

		rec, _ = w.chain(abort(false))
		stop()
		w.without(rec.New, func() {
			now, under := w.secrets(objects)
			want := map[string]string{"metadata": w.old + " " + other, "file": w.old + " " + other, "by-alias": w.old + " " + other, "both": w.old + " " + w.old}
			if diff := cmp.Diff(want, under); diff != "" || !maps.Equal(before, now) {
				t.Errorf("undone, the secrets are the same: %t; keys of data keys and objects (-want +got):\n%s", maps.Equal(before, now), diff)
			}
		})
	})
}

// TestRotateFindsLateDataKeys moves a data key that comes under the old key after the
// survey, where nothing else was.
func TestRotateFindsLateDataKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.fleet()()
		created, err := w.kms.CreateKey(t.Context(), &kms.CreateKeyInput{})
		w.must(err)
		w.until(rotate.StepMoveData, all)
		w.bucket("late", "")
		w.sealFile("late", "file", w.old, *created.KeyMetadata.Arn)
		rec, err := resume(w.machine(nil))
		w.must(err)
		_, under := w.secrets(map[string]string{"file": "late"})
		if rec.Round != 1 || len(ids(rec)) > 0 || !strings.HasPrefix(under["file"], rec.New+" ") {
			t.Errorf("round %d, left are %v, under %v", rec.Round, rec.Left, under)
		}
	})
}

// TestRotateNamesDataKeysThatStay: what cannot be moved is named, and what was not looked for.
func TestRotateNamesDataKeysThatStay(t *testing.T) {
	for name, tt := range map[string]struct {
		c             rotate.Choices
		planned, left []string
		note          string
		moves         bool // the data key in metadata
	}{
		"off":      {rotate.Choices{}, nil, nil, "was not looked for", false},
		"metadata": {rotate.Choices{Envelopes: reencrypt.EnvelopesMetadata}, nil, nil, "in metadata and instruction files alone", true},
		"content": {
			rotate.Choices{Envelopes: reencrypt.EnvelopesContent}, []string{"envelopes:plain"}, []string{"envelopes-unknown:plain", "envelopes:plain:sops"},
			"in the formats that are known", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				defer w.fleet()()
				created, err := w.kms.CreateKey(t.Context(), &kms.CreateKeyInput{})
				w.must(err)
				other := *created.KeyMetadata.Arn
				w.bucket("plain", "")
				w.sealMetadata("plain", "metadata", w.old, other)
				w.sealFile("plain", "file", w.old, other)
				_, err = w.s3.PutObject(t.Context(), &s3.PutObjectInput{
					Bucket: aws.String("plain"), Key: aws.String("archived"), Body: strings.NewReader("x"), StorageClass: types.StorageClassGlacier,
				})
				w.must(err)
				m := w.machine(nil)
				plan, err := m.rotator.Plan(t.Context(), app, []string{logs}, tt.c, 0)
				w.must(err)
				var planned []string
				for _, l := range plan.Left {
					planned = append(planned, l.ID)
				}
				noted := func(notes []string) bool {
					return slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, tt.note) })
				}
				if diff := cmp.Diff(tt.planned, planned); diff != "" || !noted(plan.Notes) {
					t.Errorf("plan: notes %q, left (-want +got):\n%s", plan.Notes, diff)
				}
				rec, err := m.begin(tt.c)
				w.must(err)
				if diff := cmp.Diff(tt.left, ids(rec)); diff != "" || !noted(rec.Notes) {
					t.Errorf("notes %q, left (-want +got):\n%s", rec.Notes, diff)
				}
				_, under := w.secrets(map[string]string{"metadata": "plain", "file": "plain"})
				if moved := strings.HasPrefix(under["metadata"], rec.New); moved != tt.moves || !strings.HasPrefix(under["file"], w.old) {
					t.Errorf("data keys are under %v", under)
				}
				differ := map[bool]string{true: "another --rewrite-files,", false: "another --envelopes, --rewrite-files,"}[name == "content"]
				if _, _, err := m.rotator.Start(t.Context(), app, []string{logs}, all); err == nil || !strings.Contains(err.Error(), differ) {
					t.Errorf("with other options: %v", err)
				}
			})
		})
	}
}
