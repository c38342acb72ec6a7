package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/localaws/config"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
)

func TestReencryptPlan(t *testing.T) {
	const objects = 30
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.newKey(appAlias), a.newKey("")
	a.fill("app-data", appAlias, objects)
	a.fill("other-data", a.newKey(""), 3)

	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no place":        {[]string{"--to", newKey}, "at least one of the flags"},
		"two places":      {[]string{"--alias", appAlias, "--bucket", "b"}, "none of the others"},
		"no old key":      {[]string{"--bucket", "app-data", "--to", newKey}, "--from"},
		"neither key":     {[]string{"--alias", appAlias}, "--to before the alias moves"},
		"negative sample": {[]string{"--alias", appAlias, "--to", newKey, "--sample", "-1"}, "--sample"},
	} {
		if code, out, errs := a.command(append([]string{"reencrypt", "plan"}, tt.args...)...); code != exitUsage || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("%s: exit code %d, %s%s", name, code, out, errs)
		}
	}

	plan := func(args ...string) reencrypt.Plan {
		t.Helper()
		code, out, errs := a.command(append([]string{"reencrypt", "plan", "--json"}, args...)...)
		var p reencrypt.Plan
		if err := json.Unmarshal([]byte(out), &p); err != nil || code != exitOK {
			t.Fatalf("exit code %d, %v: %s%s", code, err, out, errs)
		}
		return p
	}
	before := plan("--alias", appAlias, "--to", newKey, "--rate", "10")
	if before.Schema != reencrypt.PlanSchema || before.To != newKey || len(before.Buckets) != 1 {
		t.Fatalf("plan: %+v", before)
	}
	b := before.Buckets[0]
	if b.Bucket != "app-data" || !slices.Equal(b.From, []string{oldKey}) || b.Method != reencrypt.MethodUpdate || b.Move.Versions != objects || b.Seconds != objects/10 {
		t.Errorf("bucket: %+v", b)
	}
	code, out, _ := a.command("reencrypt", "plan", "--alias", appAlias, "--to", newKey)
	for _, want := range []string{"s3://app-data/ by update", "30 under an old key: 30 to move", "estimate: ", "warn bucket-default", "aws.amazon.com/s3/pricing"} {
		if code != exitOK || !strings.Contains(out, want) {
			t.Errorf("exit code %d, no %q in %s", code, want, out)
		}
	}
	a.expectUnder("app-data", oldKey, objects)

	a.moveAlias(appAlias, newKey)
	if after := plan("--alias", appAlias, "--from", oldKey); len(after.Buckets) != 1 || after.To != newKey || after.Buckets[0].Move.Versions != objects || len(after.Buckets[0].Preflight) > 0 {
		t.Errorf("after the move: %+v", after)
	}
	must(a.kms.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &oldKey}))(t)
	if code, out, errs := a.command("reencrypt", "plan", "--bucket", "app-data", "--from", oldKey, "--to", newKey); code != exitError || !strings.Contains(out, "stop old-key") {
		t.Errorf("with a disabled key: exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := a.command("reencrypt", "run", "--bucket", "app-data", "--from", oldKey, "--to", newKey); code != exitError || !strings.Contains(errs, "enable-key") {
		t.Errorf("with a disabled key: exit code %d, %s%s", code, out, errs)
	}
}

// TestPlanIsStarted: what was planned is what the fleet moves.
func TestPlanIsStarted(t *testing.T) {
	const objects = 10
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.newKey(""), a.newKey("")
	a.fill("app-data", oldKey, objects)
	file := filepath.Join(t.TempDir(), "plan.json")
	_, out, _ := a.command("reencrypt", "plan", "--bucket", "app-data", "--from", oldKey, "--to", newKey, "--json")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	a.start("REENCRYPT_FIX_BUCKET_DEFAULT", "true")
	var shown, errs bytes.Buffer
	if code := a.run([]string{"reencrypt", "start", "--plan", file}, a.fleetEnvironment(), &shown, &errs); code != exitOK {
		t.Fatalf("exit code %d, %s%s", code, &shown, &errs)
	}
	a.await("the job is complete", func(m alert.Alert) bool {
		return tells(alert.KindReencryption, newKey, alert.StatusDone)(m) && strings.Contains(m.Title, "complete")
	})
	a.expectUnder("app-data", newKey, objects)
	rules := must(a.s3.GetBucketEncryption(t.Context(), &s3.GetBucketEncryptionInput{Bucket: aws.String("app-data")}))(t).ServerSideEncryptionConfiguration.Rules
	if got := aws.ToString(rules[0].ApplyServerSideEncryptionByDefault.KMSMasterKeyID); got != newKey {
		t.Errorf("the bucket's default encryption names %s", got)
	}
}

// fleetEnvironment is what a command needs that gives the fleet work.
func (a *account) fleetEnvironment() []string {
	return []string{"CMKEEPER_STATE_BUCKET=" + sandbox.StateBucket, "CMKEEPER_JOBS_QUEUE_URL=" + a.box.JobsQueue}
}

// retireCheck runs the check as JSON.
func (a *account) retireCheck(args ...string) (code int, r retire.Result) {
	a.t.Helper()
	var out, errs bytes.Buffer
	code = a.run(append([]string{"retire", "check", "--json"}, args...), a.fleetEnvironment(), &out, &errs)
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		a.t.Fatalf("exit code %d, %v: %s%s", code, err, out.String(), errs.String())
	}
	return code, r
}

func ids(ties []retire.Tie) []string {
	var all []string
	for _, t := range ties {
		all = append(all, t.ID)
	}
	slices.Sort(all)
	return all
}

// TestRetire retires a key: everything that ties the account to it is found, one
// after the other goes, and the fleet leaves the deletion alone.
func TestRetire(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		const objects = 20
		ctx := t.Context()
		a.enter()
		oldKey, newKey := a.newKey(appAlias), a.newKey("")
		id := oldKey[strings.LastIndexByte(oldKey, '/')+1:]
		a.fill("app-data", appAlias, objects)
		a.fill("by-key", oldKey, 1)
		must(a.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("plain")}))(t)
		upload := must(a.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: aws.String("plain"), Key: aws.String("k")}))(t)
		grant := must(a.kms.CreateGrant(ctx, &kms.CreateGrantInput{
			KeyId: &oldKey, GranteePrincipal: aws.String("arn:aws:iam::" + sandbox.Account + ":role/r"), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
		}))(t)

		volume := func(key string) {
			a.box.AWS.AWSConfig().Put(config.Item{Type: "AWS::EC2::Volume", ID: "vol-1", Configuration: map[string]any{"kmsKeyId": key}})
		}
		volume(oldKey)
		a.start()
		a.awaitQuiet()
		code, r := a.retireCheck(appAlias)
		want := []string{"alias:" + appAlias, "bucket-default:app-data", "bucket-default:by-key", "dependent:ebs-volume:vol-1", "grant:" + *grant.GrantId, "last-use", "objects:app-data", "objects:by-key"}
		if code != exitError || r.Free || !slices.Equal(ids(r.Ties), want) || !slices.Equal(ids(r.Unknown), []string{"uploads:plain"}) {
			t.Errorf("exit code %d, ties %q, unknown %q", code, ids(r.Ties), ids(r.Unknown))
		}
		if code, out, errs := a.command("retire", "schedule", oldKey, "--yes-i-checked", id); code != exitError || !strings.Contains(errs, "the check does not pass") {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}

		a.moveAlias(appAlias, newKey)
		done := a.await("the job is complete", func(m alert.Alert) bool {
			return tells(alert.KindReencryption, newKey, alert.StatusDone)(m) && strings.Contains(m.Title, "complete")
		})
		if i := slices.IndexFunc(done.Facts, func(f alert.Fact) bool { return f.Name == "notes" }); i < 0 || !strings.Contains(strings.Join(done.Facts[i].Values, "\n"), "bucket-default:by-key") ||
			!strings.Contains(strings.Join(done.Facts[i].Values, "\n"), "This says nothing of client-side encryption") {
			t.Errorf("the alert does not say what still holds on to the old key, or what was not looked at: %+v", done.Facts)
		}
		if code, out, errs := a.command("reencrypt", "run", "--bucket", "by-key", "--from", oldKey, "--to", newKey); code != exitOK {
			t.Fatalf("exit code %d, %s%s", code, out, errs)
		}
		must(a.s3.DeleteBucketEncryption(ctx, &s3.DeleteBucketEncryptionInput{Bucket: aws.String("by-key")}))(t)
		must(a.kms.RevokeGrant(ctx, &kms.RevokeGrantInput{KeyId: &oldKey, GrantId: grant.GrantId}))(t)
		volume(newKey)

		if code, r = a.retireCheck(oldKey, "--quiet-days", "0", "--accept", "uploads:plain", "--accept", "alias:nothing"); code != exitOK || !r.Free || !slices.Equal(r.Accepted, []string{"uploads:plain"}) || r.LastUse == "" {
			t.Errorf("exit code %d, ties %q, unknown %q, accepted %q", code, ids(r.Ties), ids(r.Unknown), r.Accepted)
		}
		// The job that the alias started stands for a scan of its bucket.
		_, r = a.retireCheck(oldKey, "--by-reports")
		i := slices.IndexFunc(r.Buckets, func(b retire.Bucket) bool { return b.Name == "app-data" })
		if i < 0 || r.Buckets[i].Job == "" || r.Buckets[i].Scanned != 0 {
			t.Errorf("buckets: %+v", r.Buckets)
		}
		must(a.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: aws.String("plain"), Key: aws.String("k"), UploadId: upload.UploadId}))(t)

		schedule := []string{"retire", "schedule", oldKey, "--quiet-days", "0", "--days", "7"}
		if code, _, errs := a.command(append(schedule, "--yes-i-checked", "another-id")...); code != exitError || !strings.Contains(errs, "is not its id") {
			t.Errorf("another id: exit code %d, %s", code, errs)
		}
		if code, _, errs := a.command(append(schedule, "--days", "6")...); code != exitUsage || !strings.Contains(errs, "--days") {
			t.Errorf("6 days: exit code %d, %s", code, errs)
		}
		code, out, errs := a.command(append(schedule, "--yes-i-checked", id)...)
		if code != exitOK || !strings.Contains(out, "Nothing is known to need the key.") || !strings.Contains(errs, "cancel-key-deletion") {
			t.Fatalf("exit code %d, %s%s", code, out, errs)
		}
		told := a.await("the deletion is told as approved", func(m alert.Alert) bool {
			return m.Kind == alert.KindDeletion && strings.Contains(m.Title, "as approved")
		})
		if told.Severity != finding.Medium {
			t.Errorf("severity %s", told.Severity)
		}
		a.awaitQuiet()
		if got := must(a.kms.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &oldKey}))(t).KeyMetadata.KeyState; got != kmstypes.KeyStatePendingDeletion {
			t.Errorf("the key is %s", got)
		}
	})
}

// TestRetireAdvice: what the check advises for objects is a command that runs.
func TestRetireAdvice(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		oldKey, newKey := a.newKey(""), a.newKey("")
		a.fill("data", oldKey, 3)
		advised := func(environment []string) (command []string) {
			t.Helper()
			var out, errs bytes.Buffer
			a.run([]string{"retire", "check", "--json", "--quiet-days", "0", oldKey}, environment, &out, &errs)
			var r retire.Result
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatalf("%v: %s%s", err, &out, &errs)
			}
			i := slices.IndexFunc(r.Ties, func(tie retire.Tie) bool { return tie.ID == "objects:data" })
			if i < 0 {
				t.Fatalf("ties %q", ids(r.Ties))
			}
			_, words, _ := strings.Cut(r.Ties[i].Fix, ": cmkeeper ")
			return strings.Fields(words)
		}
		try := func(environment []string, want int) {
			t.Helper()
			command := advised(environment)
			var out, errs bytes.Buffer
			if code := a.run(command, environment, &out, &errs); len(command) == 0 || code != want {
				t.Errorf("%q: exit code %d, %s%s", command, code, &out, &errs)
			}
		}
		set := a.fleetEnvironment()
		try(set, exitError) // to the key KEY-ID
		a.encryptByDefault("data", newKey)
		try(set, exitOK)
		try(nil, exitError) // with the state bucket STATE-BUCKET
	})
}

// TestRetireKnowsItsOwnUse: a last use by the fleet's own job is said to be that.
func TestRetireKnowsItsOwnUse(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		oldKey, newKey := a.newKey(appAlias), a.newKey("")
		a.fill("app-data", appAlias, 3)
		a.start()
		a.awaitQuiet()
		// An application used it, and nothing else has.
		_, r := a.retireCheck(oldKey)
		i := slices.IndexFunc(r.Ties, func(tie retire.Tie) bool { return tie.ID == "last-use" })
		if i < 0 || !strings.Contains(r.Ties[i].What, "CloudTrail's record of it names operator (IAM user") {
			t.Errorf("ties: %+v", r.Ties)
		}
		a.moveAlias(appAlias, newKey)
		a.await("the job is complete", func(m alert.Alert) bool {
			return tells(alert.KindReencryption, newKey, alert.StatusDone)(m) && strings.Contains(m.Title, "complete")
		})
		a.awaitQuiet() // CloudTrail takes two look-ups a second, and the fleet makes some
		_, r = a.retireCheck(oldKey)
		// KMS shows only the job's use, and CloudTrail also who used it before.
		if !slices.Equal(ids(r.Ties), []string{"last-use"}) || !strings.Contains(r.Ties[0].What, "That was cmkeeper itself") || !strings.Contains(r.Ties[0].What, "CloudTrail's event history shows 3 uses since ") {
			t.Errorf("ties %+v, unknown %+v", r.Ties, r.Unknown)
		}
		if u := r.Uses; u == nil || u.Calls != 3 || u.Own < 3 || u.Unknown != "" || len(u.Callers) != 1 || !strings.HasSuffix(u.Callers[0].Name, ":user/operator") || len(u.Resources) != 1 || u.Resources[0].Name != "s3-bucket app-data" {
			t.Errorf("uses: %+v", u)
		}
		a.deny(administrator, "cloudtrail:LookupEvents")
		_, r = a.retireCheck(oldKey)
		if !slices.Equal(ids(r.Ties), []string{"last-use"}) || !strings.Contains(r.Ties[0].What, "cloudtrail:LookupEvents") || !strings.Contains(r.Ties[0].What, "probably cmkeeper") {
			t.Errorf("without CloudTrail: ties %+v, unknown %+v", r.Ties, r.Unknown)
		}
	})
}

// TestRetireDoesNotGuess: what may not be read counts against the key.
func TestRetireDoesNotGuess(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		key := a.newKey("")
		must(a.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("plain")}))(t)
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("plain"), Key: aws.String("k")}))(t)
		a.encryptByDefault("plain", "alias/gone") // which is no key, and so not this one
		if code, r := a.retireCheck(key); code != exitOK || !r.Free {
			t.Fatalf("exit code %d, %+v", code, r)
		}
		for action, want := range map[string][]string{
			"kms:GetKeyLastUsage":            {"last-use"},
			"kms:ListGrants":                 {"grants"},
			"kms:ListAliases":                {"aliases", "dependents:config"}, // a resource may name the key by an alias
			"config:SelectResourceConfig":    {"dependents:config"},
			"cloudtrail:LookupEvents":        {"dependents:cloudtrail"},
			"s3:ListBucketMultipartUploads":  {"uploads:cmkeeper-state", "uploads:plain"},
			"s3:GetReplicationConfiguration": {"replication:cmkeeper-state", "replication:plain"},
			"s3:GetObject":                   {"objects:plain"},
			"s3:GetEncryptionConfiguration":  {"buckets"},
			"s3:ListBucket":                  {"objects:cmkeeper-state", "objects:plain"},
			"s3:GetBucketVersioning":         {"objects:cmkeeper-state", "objects:plain"},
		} {
			a.deny(administrator, action)
			code, r := a.retireCheck(key)
			unknown := ids(r.Unknown)
			if action != "cloudtrail:LookupEvents" { // whose quota of two a second these checks use up
				unknown = slices.DeleteFunc(unknown, func(id string) bool { return id == "dependents:cloudtrail" })
			}
			if code != exitError || r.Free || !slices.Equal(unknown, want) {
				t.Errorf("without %s: exit code %d, unknown %q, want %q", action, code, unknown, want)
			}
		}
		a.deny(administrator)
		a.box.AWS.AWSConfig().SetRecorder(nil)
		if code, r := a.retireCheck(key); code != exitError || !slices.Equal(ids(r.Unknown), []string{"dependents:config"}) {
			t.Errorf("without a recorder: exit code %d, unknown %q", code, ids(r.Unknown))
		}
		if code, r := a.retireCheck(key, "--accept", "dependents:config"); code != exitOK || !slices.Equal(r.Accepted, []string{"dependents:config"}) {
			t.Errorf("without a recorder, accepted: exit code %d, unknown %q", code, ids(r.Unknown))
		}
	})
}

// seal stores an object that an application has encrypted with a data key under a key of
// KMS, as the S3 Encryption Client does, and another as a SOPS file.
func (a *account) seal(bucket, under string) {
	a.t.Helper()
	wrapped := func(about map[string]string) string {
		out := must(a.kms.GenerateDataKey(a.t.Context(), &kms.GenerateDataKeyInput{KeyId: &under, NumberOfBytes: aws.Int32(32), EncryptionContext: about}))(a.t)
		return base64.StdEncoding.EncodeToString(out.CiphertextBlob)
	}
	must(a.s3.PutObject(a.t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String("sealed"), Body: strings.NewReader("encrypted"), Metadata: map[string]string{
		"x-amz-key-v2": wrapped(map[string]string{"aws:x-amz-cek-alg": "AES/GCM/NoPadding"}), "x-amz-iv": "AAAAAAAAAAAAAAAA", "x-amz-wrap-alg": "kms+context",
		"x-amz-cek-alg": "AES/GCM/NoPadding", "x-amz-matdesc": `{"aws:x-amz-cek-alg":"AES/GCM/NoPadding"}`, "x-amz-tag-len": "128",
	}}))(a.t)
	must(a.s3.PutObject(a.t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: aws.String("secrets.yaml"), Body: strings.NewReader(
		"a: ENC[AES256_GCM,data:QQ==,iv:QQ==,tag:QQ==,type:str]\nsops:\n  kms:\n  - arn: " + under + "\n    enc: " + wrapped(nil) + "\n  lastmodified: x\n  version: 3.0.0\n",
	)}))(a.t)
}

// TestRetireFindsDataKeys: a key under which nothing but data keys are is free for who does
// not look for them, and is told that; and what cannot be read is not free.
func TestRetireFindsDataKeys(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		a.enter()
		oldKey, newKey, s3Key := a.newKey(""), a.newKey(""), a.newKey("")
		a.fill("data", s3Key, 3)
		a.seal("data", oldKey)
		const metadata, files, unknown = "envelopes:data:s3-client-v2", "envelopes:data:sops", "envelopes-unknown:data"
		check := func(what string, ties, maybe []string, args ...string) retire.Result {
			t.Helper()
			// CloudTrail takes two look-ups a second, which these checks use up.
			code, r := a.retireCheck(append([]string{oldKey, "--quiet-days", "0", "--accept", "dependents:cloudtrail"}, args...)...)
			if free := len(ties)+len(maybe) == 0; (code == exitOK) != free || !slices.Equal(ids(r.Ties), ties) || !slices.Equal(ids(r.Unknown), maybe) {
				t.Fatalf("%s: exit code %d, ties %q, unknown %q", what, code, ids(r.Ties), ids(r.Unknown))
			}
			return r
		}
		r := check("not asked to look", nil, nil)
		if r.Envelopes != reencrypt.EnvelopesOff || !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "Client-side encryption was not looked for") }) {
			t.Errorf("it looked in %q, and says %q", r.Envelopes, r.Notes)
		}
		code, out, errs := a.command("retire", "check", oldKey, "--quiet-days", "0", "--accept", "dependents:cloudtrail")
		if code != exitOK || !strings.Contains(out, "\nClient-side encryption was not looked for: ") || !strings.Contains(out, "--envelopes content") {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
		check("metadata", []string{metadata}, nil, "--envelopes", "metadata")
		r = check("content", []string{metadata, files}, nil, "--envelopes", "content")
		for i, flags := range []string{" --envelopes metadata", " --envelopes content --rewrite-files"} {
			if !strings.Contains(r.Ties[i].Fix, "cmkeeper reencrypt plan --bucket data --from "+oldKey) || !strings.HasSuffix(r.Ties[i].Fix, flags) {
				t.Errorf("advised is %q", r.Ties[i].Fix)
			}
		}
		must(a.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("data"), Key: aws.String("old"), Body: strings.NewReader("x"), StorageClass: s3types.StorageClassGlacier}))(t)
		check("metadata of what is archived", []string{metadata}, nil, "--envelopes", "metadata")
		check("content of what is archived", []string{metadata, files}, []string{unknown}, "--envelopes", "content")
		check("the same, accepted", []string{metadata, files}, nil, "--envelopes", "content", "--accept", unknown, "--accept", metadata)

		// A job that did not look as far does not stand for a scan.
		a.start()
		job := func(args ...string) {
			t.Helper()
			a.run(append([]string{"reencrypt", "start", "--bucket", "data", "--from", oldKey, "--to", newKey}, args...), a.fleetEnvironment(), io.Discard, io.Discard)
			a.awaitQuiet()
		}
		byReport := func(r retire.Result) bool {
			return r.Buckets[slices.IndexFunc(r.Buckets, func(b retire.Bucket) bool { return b.Name == "data" })].Job != ""
		}
		job()
		if !byReport(check("by the report of a job", nil, nil, "--by-reports")) {
			t.Error("the job's report was not taken")
		}
		if byReport(check("by the report of a job that did not look", []string{metadata}, nil, "--by-reports", "--envelopes", "metadata")) {
			t.Error("the report was taken of a job that looked for no data keys")
		}
		job("--envelopes", "metadata")
		if !byReport(check("by the report of a job that did", nil, nil, "--by-reports", "--envelopes", "metadata")) {
			t.Error("the report of the job that looked was not taken")
		}
		if byReport(check("by the report of a job that looked less far", []string{files}, []string{unknown}, "--by-reports", "--envelopes", "content")) {
			t.Error("the report was taken of a job that did not look into objects")
		}
		job("--envelopes", "content", "--rewrite-files")
		check("all moved", nil, nil, "--envelopes", "content", "--accept", unknown)
		a.deny(administrator, "kms:ReEncryptFrom")
		check("KMS not asked", nil, []string{unknown}, "--envelopes", "metadata")
	})
}

func TestAsk(t *testing.T) {
	for answer, want := range map[string]string{"id\n": "id", "id": "id", "\n": ""} {
		var shown bytes.Buffer
		if got, err := ask(strings.NewReader(answer), &shown, "which? "); err != nil || got != want || shown.String() != "which? " {
			t.Errorf("%q: %q, %v", answer, got, err)
		}
	}
	if _, err := ask(strings.NewReader(""), &bytes.Buffer{}, ""); err == nil {
		t.Error("no answer is taken for one")
	}
}
