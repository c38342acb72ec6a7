package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// administrator is the access key that the commands are run with.
const administrator = "AKIAADMIN"

// enter makes the SDK's own configuration, which comes from the process's
// environment, point to the account. In a bubble the commands are handed it instead.
func (a *account) enter() {
	if a.bubble {
		cfg := a.box.Config(administrator)
		a.aws = &cfg
		return
	}
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": a.box.Endpoint, "AWS_REGION": sandbox.Region,
		"AWS_ACCESS_KEY_ID": administrator, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		a.t.Setenv(name, value)
	}
}

// command runs a command line with the settings of a worker that enforces.
func (a *account) command(args ...string) (code int, stdout, stderr string) {
	a.t.Helper()
	var out, errs bytes.Buffer
	environment := []string{"CMKEEPER_STATE_BUCKET=" + sandbox.StateBucket, "CMKEEPER_ROTATION_MODE=enforce", "CMKEEPER_DELETION_MODE=enforce"}
	code = a.run(args, environment, &out, &errs)
	return code, out.String(), errs.String()
}

// writesBut notes every call of the administrator that is not a read and not
// about the places, which are beginnings of ARNs, and refuses it.
func (a *account) writesBut(places ...string) *refusals {
	noted := &refusals{}
	// What S3 needs of the caller, and what is asked as a dry run only.
	use := []string{"kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"}
	a.box.AWS.SetIdentityPolicy(administrator, func(action, resource string) bool {
		_, name, _ := strings.Cut(action, ":")
		read := slices.ContainsFunc([]string{"Get", "List", "Describe", "Head", "Lookup", "Select"}, func(verb string) bool { return strings.HasPrefix(name, verb) })
		allowed := read || slices.Contains(use, action) || slices.ContainsFunc(places, func(place string) bool { return strings.HasPrefix(resource, place) })
		return noted.unless(allowed, action, resource)
	})
	return noted
}

func TestReencryptRun(t *testing.T) {
	const objects = 40
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.newKey(appAlias), a.newKey("")
	a.fill("app-data", appAlias, objects)
	args := []string{"reencrypt", "run", "--bucket", "app-data", "--from", appAlias, "--to", newKey}
	summary := func(text string) reencrypt.Summary {
		var s reencrypt.Summary
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		return s
	}

	for name, tt := range map[string]struct {
		change []string
		code   int
		want   string
	}{
		"no bucket for the probe":  {[]string{"--state-bucket", ""}, exitUsage, "--state-bucket"},
		"no concurrency":           {[]string{"--concurrency", "0"}, exitUsage, "--concurrency"},
		"unknown method":           {[]string{"--method", "teleport"}, exitUsage, "--method"},
		"unknown versions":         {[]string{"--versions", "some"}, exitUsage, "--versions"},
		"report in no directory":   {[]string{"--report", filepath.Join(t.TempDir(), "no", "report")}, exitUsage, "no such file"},
		"unknown key":              {[]string{"--from", "alias/nobody"}, exitError, "alias/nobody"},
		"bucket that is not there": {[]string{"--bucket", "no-such-bucket"}, exitError, "no-such-bucket"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			environment := []string{"CMKEEPER_STATE_BUCKET=" + sandbox.StateBucket}
			if tt.change[0] == "--state-bucket" {
				environment = nil
			}
			if code := run(t.Context(), append(slices.Clone(args), tt.change...), environment, &out, &errs); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(errs.String(), tt.want) || out.Len() > 0 && tt.code == exitUsage {
				t.Errorf("want %q in %s; standard output: %s", tt.want, errs.String(), out.String())
			}
		})
	}
	if code, _, errs := a.command(args[:len(args)-2]...); code != exitUsage || !strings.Contains(errs, `"to" not set`) {
		t.Errorf("without --to the exit code is %d: %s", code, errs)
	}
	a.expectUnder("app-data", oldKey, objects)

	for method, scratch := range map[string][]string{"auto": {"arn:aws:s3:::" + sandbox.StateBucket}, "copy": nil} {
		t.Run("dry run of "+method, func(t *testing.T) {
			writes := a.writesBut(scratch...)
			code, out, errs := a.command(append(args, "--method", method, "--dry-run", "--json")...)
			if s := summary(out); code != exitOK || s.Scanned != objects || s.Moved != objects || s.State == reencrypt.StateComplete {
				t.Errorf("exit code %d, %s%s", code, out, errs)
			}
			if calls := writes.calls(); len(calls) > 0 {
				t.Errorf("a dry run wrote: %q", calls)
			}
		})
	}
	a.allowAll(administrator)
	a.expectUnder("app-data", oldKey, objects)

	t.Run("run", func(t *testing.T) {
		report := filepath.Join(t.TempDir(), "report.jsonl")
		code, out, errs := a.command(append(args, "--json", "--report", report)...)
		if s := summary(out); code != exitOK || s.Scanned != objects || s.Moved != objects || s.Refused+s.Failed != 0 || s.State != reencrypt.StateComplete {
			t.Errorf("exit code %d, %s%s", code, out, errs)
		}
		if rows := must(os.ReadFile(report))(t); len(rows) > 0 {
			t.Errorf("a complete run reports %s", rows)
		}
		a.expectUnder("app-data", newKey, objects)
	})
}

// TestReencryptRunWithoutSTSAndKMS runs against a server that has S3 without ownership
// controls, and neither STS nor KMS.
func TestReencryptRunWithoutSTSAndKMS(t *testing.T) {
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.newKey(appAlias), a.newKey("")
	a.fill("app-data", appAlias, 3)
	for name, answer := range map[string]struct {
		status int
		kms    string
	}{
		"unknown":        {http.StatusNotImplemented, `{"__type":"NotImplemented"}`},
		"refused":        {http.StatusForbidden, `{"__type":"AccessDenied"}`},
		"not understood": {http.StatusBadRequest, `{"__type":"UnknownOperationException"}`},
		"in S3's words":  {http.StatusMethodNotAllowed, "<Error><Code>MethodNotAllowed</Code></Error>"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				scope := r.Header.Get("Authorization")
				switch {
				case r.URL.Query().Has("ownershipControls"):
					w.WriteHeader(http.StatusNotImplemented)
					fmt.Fprint(w, "<Error><Code>NotImplemented</Code><Message>A header you provided implies functionality that is not implemented</Message></Error>")
				case strings.Contains(scope, "/sts/aws4_request"):
					w.WriteHeader(answer.status)
					fmt.Fprint(w, "<ErrorResponse><Error><Code>NotImplemented</Code></Error></ErrorResponse>")
				case strings.Contains(scope, "/kms/aws4_request"):
					w.WriteHeader(answer.status)
					fmt.Fprint(w, answer.kms)
				default:
					a.box.AWS.ServeHTTP(w, r)
				}
			}))
			defer server.Close()
			t.Setenv("AWS_ENDPOINT_URL", server.URL)
			t.Setenv("AWS_MAX_ATTEMPTS", "1")
			run := func(from, to string, more ...string) (int, string, string) {
				return a.command(append([]string{"reencrypt", "run", "--bucket", "app-data", "--from", from, "--to", to, "--method", "copy"}, more...)...)
			}
			if code, _, errs := run(oldKey, newKey); code != exitError || !strings.Contains(errs, "--account") {
				t.Errorf("without an account: exit code %d, %s", code, errs)
			}
			if code, _, errs := run(oldKey, newKey, "--account", "me"); code != exitUsage || !strings.Contains(errs, "12 digits") {
				t.Errorf("with a wrong account: exit code %d, %s", code, errs)
			}
			if code, _, errs := run(appAlias, newKey, "--account", sandbox.Account); code != exitError || !strings.Contains(errs, "name the key by its ARN") {
				t.Errorf("with an alias: exit code %d, %s", code, errs)
			}
			for _, method := range []string{"copy", "update"} {
				code, out, errs := run(oldKey, newKey, "--account", sandbox.Account, "--method", method)
				if code != exitOK || !strings.Contains(out, "3 moved") {
					t.Errorf("by %s: exit code %d, %s%s", method, code, out, errs)
				}
				oldKey, newKey = newKey, oldKey
			}
		})
	}
}

// TestReencryptRunLeavesSome has objects that cannot be moved.
func TestReencryptRunLeavesSome(t *testing.T) {
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.newKey(""), a.newKey("")
	bucket := aws.String("contracts")
	must(a.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: bucket, ObjectLockEnabledForBucket: aws.Bool(true)}))(t)
	for _, key := range []string{"signed", "draft"} {
		in := &s3.PutObjectInput{
			Bucket: bucket, Key: &key, Body: strings.NewReader(key),
			ServerSideEncryption: s3types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &oldKey,
		}
		if key == "signed" {
			in.ObjectLockMode, in.ObjectLockRetainUntilDate = s3types.ObjectLockModeCompliance, aws.Time(time.Now().Add(time.Hour))
		}
		must(a.s3.PutObject(t.Context(), in))(t)
	}
	report := filepath.Join(t.TempDir(), "report.jsonl")
	code, out, errs := a.command("reencrypt", "run", "--bucket", *bucket, "--from", oldKey, "--to", newKey, "--report", report)
	if code != exitError || !strings.Contains(out, "2 versions scanned, 1 moved, 0 skipped, 1 refused, 0 failed") || !strings.Contains(out, "1  object-lock") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	var row reencrypt.Refusal
	if rows := must(os.ReadFile(report))(t); json.Unmarshal(rows, &row) != nil || row.Key != "signed" || row.Reason != reencrypt.ReasonObjectLock || row.Version == "" {
		t.Errorf("report: %s", rows)
	}
	for key, want := range map[string]string{"signed": oldKey, "draft": newKey} {
		head := must(a.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: bucket, Key: &key}))(t)
		if got := aws.ToString(head.SSEKMSKeyId); got != want {
			t.Errorf("%s is under %s, want %s", key, got, want)
		}
	}
}

// TestCommandOfTheAlert runs the command that an alert gives for an alias whose
// old key is unknown.
func TestCommandOfTheAlert(t *testing.T) {
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.moveUnseen(3)
	a.start()
	told := a.await("old key unknown", tells(alert.KindAlias, newKey, alert.StatusRefused))
	i := slices.IndexFunc(told.Next, func(next string) bool { return strings.HasPrefix(next, "cmkeeper ") })
	if i < 0 {
		t.Fatalf("no command: %q", told.Next)
	}
	words := strings.Fields(strings.Replace(told.Next[i], "OLD-KEY-ARN", oldKey, 1)) // nothing in it is quoted
	if code, out, errs := a.command(words[1:]...); code != exitOK {
		t.Errorf("%s: exit code %d, %s%s", told.Next[i], code, out, errs)
	}
	a.expectUnder("app-data", newKey, 3)
}

// TestOddObjects moves objects with odd names and with everything that an object
// may have, and compares what S3 shows of them before and after.
func TestOddObjects(t *testing.T) {
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.newKey(""), a.newKey("")
	names := []string{
		"plain", "with space", " leading and trailing ", "a+b", "a&b=c?d#e", "100%41", "größe/ü", "🔑", "line\nbreak", "carriage\rreturn", "quote\"'`", "back\\slash",
		"slashes//and/./dots/", "<xml>]]>", strings.Repeat("ü", 512), // 1,024 bytes
	}
	for _, method := range []string{"update", "copy"} {
		t.Run(method, func(t *testing.T) {
			bucket := "odd-" + method
			must(a.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket, ObjectOwnership: s3types.ObjectOwnershipObjectWriter}))(t)
			before := map[string]shown{}
			for i, name := range names {
				a.putRich(bucket, name, oldKey, i)
				before[name] = a.show(bucket, name)
			}
			code, out, errs := a.command("reencrypt", "run", "--bucket", bucket, "--from", oldKey, "--to", newKey, "--method", method)
			if code != exitOK || !strings.Contains(out, fmt.Sprintf("%d moved", len(names))) {
				t.Fatalf("exit code %d, %s%s", code, out, errs)
			}
			options := cmp.Options{cmpopts.IgnoreUnexported(s3.HeadObjectOutput{}, s3types.Tag{}, s3types.Grant{}, s3types.Grantee{}, s3types.Owner{}), cmpopts.IgnoreTypes(middleware.Metadata{})}
			if method == "copy" { // as its notes say
				options = append(options, cmpopts.IgnoreFields(s3.HeadObjectOutput{}, "LastModified", "ETag"))
			}
			for _, name := range names {
				after := a.show(bucket, name)
				if got := aws.ToString(after.Head.SSEKMSKeyId); got != newKey {
					t.Errorf("%.40q is under %s, want %s", name, got, newKey)
				}
				after.Head.SSEKMSKeyId = before[name].Head.SSEKMSKeyId
				if diff := cmp.Diff(before[name], after, options); diff != "" {
					t.Errorf("%.40q is not what it was (-before +after):\n%s", name, diff)
				}
			}
		})
	}
}

// putRich stores the i-th object with every header that S3 keeps.
func (a *account) putRich(bucket, name, key string, i int) {
	a.t.Helper()
	classes := []s3types.StorageClass{s3types.StorageClassStandard, s3types.StorageClassStandardIa, s3types.StorageClassIntelligentTiering, s3types.StorageClassGlacierIr, s3types.StorageClassOnezoneIa}
	acls := []s3types.ObjectCannedACL{s3types.ObjectCannedACLPrivate, s3types.ObjectCannedACLPublicRead, s3types.ObjectCannedACLAuthenticatedRead}
	must(a.s3.PutObject(a.t.Context(), &s3.PutObjectInput{
		Bucket: &bucket, Key: &name, Body: strings.NewReader(strings.Repeat("body of "+name, 1+i)),
		ServerSideEncryption: s3types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &key, BucketKeyEnabled: aws.Bool(i%2 == 0),
		CacheControl: aws.String("max-age=60, must-revalidate"), ContentDisposition: aws.String(`attachment; filename="a b.txt"`),
		ContentEncoding: aws.String("identity"), ContentLanguage: aws.String("de, en"), ContentType: aws.String("text/x-odd; charset=utf-8"),
		Expires:                 aws.Time(time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)),
		WebsiteRedirectLocation: aws.String("/elsewhere?x=1&y=2"),
		Metadata:                map[string]string{"owner": "team a", "note": "a, b; c=\"d\"", "row": fmt.Sprint(i)},
		Tagging:                 aws.String("class=internal&retain=7+years&who=a%2Bb%40c"),
		StorageClass:            classes[i%len(classes)], ACL: acls[i%len(acls)], ChecksumAlgorithm: s3types.ChecksumAlgorithmSha256,
	}))(a.t)
}

// shown is all that S3 shows of an object.
type shown struct {
	Head   *s3.HeadObjectOutput
	Body   string
	Tags   []s3types.Tag
	Grants []s3types.Grant
	Owner  *s3types.Owner
}

func (a *account) show(bucket, name string) shown {
	a.t.Helper()
	ctx := a.t.Context()
	get := must(a.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &name}))(a.t)
	body := must(io.ReadAll(get.Body))(a.t)
	_ = get.Body.Close()
	acl := must(a.s3.GetObjectAcl(ctx, &s3.GetObjectAclInput{Bucket: &bucket, Key: &name}))(a.t)
	return shown{
		Head: must(a.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &name, ChecksumMode: s3types.ChecksumModeEnabled}))(a.t),
		Body: string(body),
		Tags: must(a.s3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &bucket, Key: &name}))(a.t).TagSet,

		Grants: acl.Grants, Owner: acl.Owner,
	}
}
