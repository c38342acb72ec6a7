package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/rotate"
)

// rotate runs a command line of cmkeeper rotate, as the administrator.
func (a *account) rotate(args ...string) (code int, stdout, stderr string) {
	a.t.Helper()
	var out, errs bytes.Buffer
	code = a.run(append([]string{"rotate"}, args...), a.fleetEnvironment(), &out, &errs)
	return code, out.String(), errs.String()
}

// rotated runs one that has to succeed, with --json, and returns the rotation.
func (a *account) rotated(args ...string) rotate.Record {
	a.t.Helper()
	code, out, errs := a.rotate(append(args, "--json")...)
	if code != exitOK {
		a.t.Fatalf("%q: exit code %d: %s%s", args, code, out, errs)
	}
	expectValid(a.t, "rotation.v1.schema.json", out)
	return decodeJSON[rotate.Record](a.t, out)
}

// ledger makes the key of appAlias, with a grant, and two buckets under it: one by the
// alias, with an object that cannot be moved, and one by the key.
func (a *account) ledger(objects int) (key string) {
	a.t.Helper()
	key = a.newKey(appAlias)
	must(a.kms.EnableKeyRotation(a.t.Context(), &kms.EnableKeyRotationInput{KeyId: &key, RotationPeriodInDays: aws.Int32(180)}))(a.t)
	must(a.kms.TagResource(a.t.Context(), &kms.TagResourceInput{KeyId: &key, Tags: []kmstypes.Tag{{TagKey: aws.String("owner"), TagValue: aws.String("payments")}}}))(a.t)
	must(a.kms.CreateGrant(a.t.Context(), &kms.CreateGrantInput{
		KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + sandbox.Account + ":role/reports"), Operations: []kmstypes.GrantOperation{kmstypes.GrantOperationDecrypt},
	}))(a.t)
	a.fill("app-data", appAlias, objects)
	a.fill("app-logs", key, objects/2)
	must(a.s3.PutObject(a.t.Context(), &s3.PutObjectInput{ // no method can keep its double encryption
		Bucket: aws.String("app-data"), Key: aws.String("double"), Body: strings.NewReader("double"),
		ServerSideEncryption: s3types.ServerSideEncryptionAwsKmsDsse, SSEKMSKeyId: &key,
	}))(a.t)
	return key
}

// pointsTo is the ARN of the key of an alias.
func (a *account) pointsTo(alias string) string {
	a.t.Helper()
	return *must(a.kms.DescribeKey(a.t.Context(), &kms.DescribeKeyInput{KeyId: &alias}))(a.t).KeyMetadata.Arn
}

// defaultKey is what the default encryption of a bucket names.
func (a *account) defaultKey(bucket string) string {
	a.t.Helper()
	out := must(a.s3.GetBucketEncryption(a.t.Context(), &s3.GetBucketEncryptionInput{Bucket: &bucket}))(a.t)
	return aws.ToString(out.ServerSideEncryptionConfiguration.Rules[0].ApplyServerSideEncryptionByDefault.KMSMasterKeyID)
}

// TestRotate rotates an alias while a member of the fleet is at work, in two parts, and
// undoes it.
func TestRotate(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		const objects = 20
		a.enter()
		oldKey := a.ledger(objects)
		a.start()
		a.awaitQuiet()

		_, before, _ := a.rotate("status")
		if before != "There are no rotations.\n" {
			t.Errorf("status before: %s", before)
		}
		code, out, errs := a.rotate(appAlias, "--dry-run", "--json")
		if code != exitOK {
			t.Fatalf("exit code %d: %s%s", code, out, errs)
		}
		expectValid(t, "rotation-plan.v1.schema.json", out)
		plan := decodeJSON[rotate.Plan](t, out)
		if len(plan.Buckets) != 2 || plan.Old != oldKey || len(plan.Steps) != 6 || len(plan.Stops) > 0 || a.pointsTo(appAlias) != oldKey {
			t.Errorf("plan: %+v", plan)
		}
		if n := len(decodeJSON[struct{ Jobs []any }](t, a.ok("list", "--json")).Jobs); n != 0 {
			t.Errorf("a dry run has started %d jobs", n)
		}

		half := a.rotated(appAlias, "--until", "move-aliases")
		if half.State != rotate.StateRunning || half.Step != rotate.StepMoveDefaults || half.Old != oldKey || a.pointsTo(appAlias) != half.New || half.Options.Envelopes != "" {
			t.Errorf("half of it: %+v", half)
		}
		told := a.await("the alias's move is left to the rotation", func(m alert.Alert) bool {
			return m.Kind == alert.KindAlias && slices.ContainsFunc(m.Facts, func(f alert.Fact) bool { return f.Name == "rotation" && slices.Equal(f.Values, []string{half.ID}) })
		})
		if told.Severity != finding.Low || told.Action.Status != alert.StatusNone || !strings.Contains(told.Text(), "cmkeeper rotate status "+half.ID) {
			t.Errorf("alert:\n%s", told.Text())
		}
		a.awaitQuiet()
		a.expectStill(oldKey, objects)

		done := a.rotated("resume", half.ID)
		if done.ID != half.ID || done.State != rotate.StateDone || done.New != half.New || len(done.Left) != 2 {
			t.Errorf("all of it: %+v", done)
		}
		if got, want := a.underKeys("app-data"), map[string]int{done.New: objects, oldKey: 1}; !maps.Equal(got, want) {
			t.Errorf("objects by key: %v, want %v", got, want)
		}
		a.expectUnder("app-logs", done.New, objects/2)
		if got := a.defaultKey("app-logs"); got != done.New {
			t.Errorf("the default encryption of app-logs names %s", got)
		}
		a.awaitQuiet()
		a.expectJobs(map[string]int{"app-data " + done.New: 1, "app-logs " + done.New: 1})
		if again := a.rotated("resume", appAlias); !cmp.Equal(again, done) {
			t.Errorf("resumed when it is done: %s", cmp.Diff(done, again))
		}
		_, out, _ = a.rotate("status", appAlias)
		for _, want := range []string{"Rotation " + done.ID + " of alias/app: done", "What may still need the old key:", "objects:app-data", "cmkeeper reencrypt report ", "Not looked at"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in the status:\n%s", want, out)
			}
		}
		expectNarrow(t, out)

		back := a.rotated("abort", appAlias)
		if back.State != rotate.StateAborting || back.Step != rotate.StepDisableNewKey || !back.Waits.After(time.Now().Add(23*time.Hour)) || a.pointsTo(appAlias) != oldKey || a.defaultKey("app-logs") != oldKey || a.defaultKey("app-data") != appAlias {
			t.Errorf("aborted: %+v", back)
		}
		a.expectStill(oldKey, objects)
		a.awaitQuiet()
		a.expectJobs(map[string]int{"app-data " + done.New: 1, "app-logs " + done.New: 1, "app-data " + oldKey: 1, "app-logs " + oldKey: 1})
		if got := must(a.kms.DescribeKey(t.Context(), &kms.DescribeKeyInput{KeyId: &done.New}))(t).KeyMetadata.KeyState; got != kmstypes.KeyStateEnabled {
			t.Errorf("the new key is %s before a day is over", got)
		}
		code, out, errs = a.rotate("status", "--json")
		if list := decodeJSON[struct{ Rotations []rotate.Record }](t, out).Rotations; code != exitOK || len(list) != 1 || list[0].ID != done.ID {
			t.Errorf("exit code %d: %s%s", code, out, errs)
		}
		expectValid(t, "rotation.v1.schema.json", out)
		a.expectNoDeadLetters()
	})
}

// expectStill fails the test unless all objects of the ledger are under the key.
func (a *account) expectStill(key string, objects int) {
	a.t.Helper()
	a.expectUnder("app-data", key, objects+1)
	a.expectUnder("app-logs", key, objects/2)
}

// expectJobs fails the test unless these are all jobs, by bucket and new key.
func (a *account) expectJobs(want map[string]int) {
	a.t.Helper()
	got := map[string]int{}
	for _, j := range decodeJSON[struct{ Jobs []reencrypt.Summary }](a.t, a.ok("list", "--json")).Jobs {
		got[j.Bucket+" "+j.To]++
	}
	if !maps.Equal(got, want) {
		a.t.Errorf("jobs %v, want %v", got, want)
	}
}

func TestRotateUsage(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey(appAlias)
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"nothing":                  {nil, exitUsage, "1 arg"},
		"a key, not an alias":      {[]string{key}, exitUsage, "alias/NAME"},
		"another key, no alias":    {[]string{appAlias, "--also", key}, exitUsage, "alias/NAME"},
		"a sample of a real one":   {[]string{appAlias, "--sample", "10"}, exitUsage, "--dry-run"},
		"a negative sample":        {[]string{appAlias, "--dry-run", "--sample", "-1"}, exitUsage, "--sample"},
		"no such step":             {[]string{appAlias, "--until", "the-end"}, exitUsage, `"the-end"`},
		"a step of a dry run":      {[]string{appAlias, "--dry-run", "--until", "move-data"}, exitUsage, "dry-run"},
		"deleted at once":          {[]string{appAlias, "--delete-old", "--unused-days", "0"}, exitUsage, "--unused-days"},
		"no such place to look":    {[]string{appAlias, "--envelopes", "everywhere"}, exitUsage, "--envelopes"},
		"files without a look":     {[]string{appAlias, "--envelopes", "metadata", "--rewrite-files"}, exitError, "--rewrite-files goes with --envelopes content"},
		"no concurrency":           {[]string{appAlias, "--concurrency", "0"}, exitUsage, "--concurrency"},
		"no such flag":             {[]string{appAlias, "--force"}, exitUsage, "--force"},
		"which to resume":          {[]string{"resume"}, exitUsage, "1 arg"},
		"resumed to no step":       {[]string{"resume", appAlias, "--until", "the-end"}, exitUsage, `"the-end"`},
		"which to abort":           {[]string{"abort"}, exitUsage, "1 arg"},
		"status of two":            {[]string{"status", "a", "b"}, exitUsage, "at most 1 arg"},
		"no such alias":            {[]string{"alias/nobody"}, exitError, "alias/nobody"},
		"another key's alias":      {[]string{appAlias, "--also", "alias/nobody"}, exitError, "does not point to key"},
		"status of what is none":   {[]string{"status", appAlias}, exitError, "no such rotation"},
		"status of no path":        {[]string{"status", "../x"}, exitError, "no such rotation"},
		"resume what is none":      {[]string{"resume", "20260301-abcdefgh"}, exitError, "no such rotation"},
		"abort what is none":       {[]string{"abort", appAlias}, exitError, "no such rotation"},
		"an external key for none": {[]string{appAlias, "--xks-key-id", "x"}, exitError, "--xks-key-id"},
	} {
		t.Run(name, func(t *testing.T) {
			a := &account{t: t, box: a.box}
			if code, out, errs := a.rotate(tt.args...); code != tt.code || !strings.Contains(errs, tt.want) || out != "" {
				t.Errorf("exit code %d, want %d and %q in: %s%s", code, tt.code, tt.want, errs, out)
			}
		})
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"rotate", appAlias}, nil, &out, &errs); code != exitUsage ||
		!strings.Contains(errs.String(), "CMKEEPER_STATE_BUCKET") || !strings.Contains(errs.String(), "CMKEEPER_JOBS_QUEUE_URL") {
		t.Errorf("without its settings the exit code is %d: %s", code, errs.String())
	}
	if _, all, _ := a.rotate("status"); all != "There are no rotations.\n" || a.pointsTo(appAlias) != key {
		t.Errorf("something was begun: %s", all)
	}
}

// TestRotateNamesPermissions takes one permission after the other away: what is missing is
// named, and with it the rotation goes on.
func TestRotateNamesPermissions(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey(appAlias)
	must(a.kms.EnableKeyRotation(t.Context(), &kms.EnableKeyRotationInput{KeyId: &key}))(t)
	policy := *must(a.kms.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: &key, PolicyName: aws.String("default")}))(t).Policy
	policy = strings.Replace(policy, `"*"`, `"`+key+`"`, 1)
	if !strings.Contains(policy, key) {
		t.Fatalf("the policy does not name the key: %s", policy)
	}
	must(a.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, PolicyName: aws.String("default"), Policy: &policy}))(t)
	a.fill("app-logs", key, 1)
	for _, action := range []string{
		"kms:DescribeKey", "kms:GetKeyPolicy", "kms:ListResourceTags", "kms:ListAliases", "kms:ListGrants", "kms:GetKeyRotationStatus",
		"kms:CreateKey", "kms:PutKeyPolicy", "kms:EnableKeyRotation", "s3:ListAllMyBuckets", "kms:UpdateAlias", "s3:PutEncryptionConfiguration", "sqs:SendMessage",
	} {
		a.deny(administrator, action)
		code, out, errs := a.rotate(appAlias)
		a.allowAll(administrator)
		if code != exitError || !strings.Contains(errs, action) {
			t.Errorf("without %s: exit code %d: %s%s", action, code, errs, out)
		}
	}
	a.start()
	if done := a.rotated("resume", appAlias); done.State != rotate.StateDone || len(done.Left) > 0 {
		t.Errorf("with all permissions: %+v", done)
	}
	a.expectUnder("app-logs", a.pointsTo(appAlias), 1)
	live := *must(a.kms.GetKeyPolicy(t.Context(), &kms.GetKeyPolicyInput{KeyId: aws.String(a.pointsTo(appAlias)), PolicyName: aws.String("default")}))(t).Policy
	if want := strings.ReplaceAll(policy, key, a.pointsTo(appAlias)); live != want {
		t.Errorf("the policy is %s, want %s", live, want)
	}
	tagged := 0
	for _, k := range must(a.kms.ListKeys(t.Context(), &kms.ListKeysInput{}))(t).Keys {
		for _, tag := range must(a.kms.ListResourceTags(t.Context(), &kms.ListResourceTagsInput{KeyId: k.KeyId}))(t).Tags {
			if *tag.TagKey == rotate.Tag {
				tagged++
			}
		}
	}
	if tagged != 1 {
		t.Errorf("%d keys were created", tagged)
	}
}

// TestRotateStopsAtAPolicy: a policy that is wrong is not copied.
func TestRotateStopsAtAPolicy(t *testing.T) {
	a := newAccount(t)
	a.enter()
	key := a.newKey(appAlias)
	must(a.kms.PutKeyPolicy(t.Context(), &kms.PutKeyPolicyInput{KeyId: &key, PolicyName: aws.String("default"), Policy: aws.String(publicPolicy)}))(t)
	code, out, errs := a.rotate(appAlias, "--dry-run")
	if code != exitError || !strings.Contains(out, "It cannot begin: the policy has 1 finding") || errs != "" {
		t.Errorf("dry run: exit code %d: %s%s", code, out, errs)
	}
	expectNarrow(t, out)
	if code, out, errs := a.rotate(appAlias, "--until", "create-key"); code != exitError || !strings.Contains(errs, "--accept-policy") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	if a.pointsTo(appAlias) != key {
		t.Error("the alias has moved")
	}
}

// expectNarrow fails the test for each line that is longer than a terminal is wide, and
// not because of one long word or of a command to paste.
func expectNarrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if len([]rune(line)) > columns && len(strings.Fields(line)) > 3 && !strings.HasPrefix(strings.TrimSpace(line), "cmkeeper ") {
			t.Errorf("longer than %d columns: %s", columns, line)
		}
	}
}

// schemaOf compiles a schema of docs.
func schemaOf(t *testing.T, file string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	return must(c.Compile(filepath.Join("..", "..", "docs", file)))(t)
}

// expectValid fails the test unless a document is as its schema says.
func expectValid(t *testing.T, file, document string) {
	t.Helper()
	in := must(jsonschema.UnmarshalJSON(strings.NewReader(document)))(t)
	if err := schemaOf(t, file).Validate(in); err != nil {
		t.Errorf("%s\nis not as docs/%s says: %v", document, file, err)
	}
}

// TestRotationSchemas wants every member that a rotation and a plan can have in the schemas,
// and the steps.
func TestRotationSchemas(t *testing.T) {
	for file, v := range map[string]any{"rotation.v1.schema.json": &rotationJSON{}, "rotation-plan.v1.schema.json": &rotate.Plan{}} {
		fillValue(reflect.ValueOf(v).Elem())
		raw := must(json.Marshal(v))(t)
		var document any
		if err := json.Unmarshal(raw, &document); err != nil {
			t.Fatal(err)
		}
		expectMembers(t, file, document, schemaOf(t, file))
	}
	for _, step := range append(rotate.Steps(), rotate.StepRotateMaterial) {
		p := fmt.Sprintf(`{"schema":"cmkeeper.rotation-plan.v1","at":"2026-03-01T10:00:00Z","aliases":["alias/a"],"old_key":"arn:x","steps":[{"step":%q,"what":""}],"findings":[],"buckets":[],"left":[],"notes":[],"stops":[],"usd":0,"usd_monthly":1}`, step)
		expectValid(t, "rotation-plan.v1.schema.json", p)
	}
	for _, step := range append(rotate.Steps(), rotate.StepRotateMaterial, rotate.StepRestoreAliases, rotate.StepRestoreDefaults, rotate.StepRestoreData, rotate.StepDisableNewKey) {
		r := rotationJSON{rotate.Schema, rotate.Record{ID: "x", State: rotate.StateRunning, Step: step, Aliases: []string{"alias/a"}, Old: "arn:x", By: "arn:y"}}
		expectValid(t, "rotation.v1.schema.json", string(must(json.Marshal(r))(t)))
	}
	in := must(jsonschema.UnmarshalJSON(strings.NewReader(`{"schema":"cmkeeper.rotation.v1","id":"x"}`)))(t)
	if schemaOf(t, "rotation.v1.schema.json").Validate(in) == nil {
		t.Error("the schema takes a rotation without an alias")
	}
}

// fillValue gives everything that a value holds a value.
func fillValue(v reflect.Value) {
	if _, isTime := v.Interface().(time.Time); isTime {
		v.Set(reflect.ValueOf(time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillValue(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillValue(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(1)
	}
}

// expectMembers fails the test for each member of a document that its schema does not
// know. The buckets of a plan are those of another document.
func expectMembers(t *testing.T, path string, document any, schemas ...*jsonschema.Schema) {
	t.Helper()
	for i := 0; i < len(schemas); i++ {
		if schemas[i].Ref != nil {
			schemas = append(schemas, schemas[i].Ref)
		}
		schemas = append(schemas, schemas[i].OneOf...)
	}
	switch d := document.(type) {
	case []any:
		for _, s := range schemas {
			if s.Items2020 != nil {
				expectMembers(t, path+"[]", d[0], s.Items2020)
			}
		}
	case map[string]any:
		if strings.HasSuffix(path, ".buckets[]") {
			return
		}
		for name, value := range d {
			i := slices.IndexFunc(schemas, func(s *jsonschema.Schema) bool { return s.Properties[name] != nil })
			if i < 0 {
				t.Errorf("%s does not know %s", path, name)
				continue
			}
			expectMembers(t, path+"."+name, value, schemas[i].Properties[name])
		}
	}
}

// What differs from run to run, in the order in which it is looked for, and what stands
// for it in docs/rotation.md.
var (
	shownKey     = regexp.MustCompile(`[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	shownLong    = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	shownJob     = regexp.MustCompile(`\b[0-9a-f]{24}\b`)
	shownID      = regexp.MustCompile(`\b[0-9]{8}-[a-z2-7]{8}\b`)
	shownTime    = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z`)
	shownClock   = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8} UTC`)
	shownPass    = regexp.MustCompile(`(?m)^[a-z]+, pass .*\n`)
	shownPolicy  = regexp.MustCompile("(?s)```json\n(.*?)```")
	shownConsole = regexp.MustCompile("(?s)```console\n\\$ cmkeeper (rotate [^\n]*)\n.*?```")
)

// TestRotationDocument keeps the transcripts in docs/rotation.md true, which a person with
// the page's policy makes. With UPDATE_DOCS=1 it writes them.
func TestRotationDocument(t *testing.T) {
	inAccount(t, func(t *testing.T, a *account) {
		path := filepath.Join("..", "..", "docs", "rotation.md")
		a.enter()
		a.ledger(40)
		a.start()
		a.awaitQuiet()
		numbers := map[string]int{}
		numbered := func(format string) func(string) string {
			return func(found string) string {
				if _, ok := numbers[found]; !ok {
					numbers[found] = len(numbers) + 1
				}
				return fmt.Sprintf(format, numbers[found])
			}
		}
		page := string(must(os.ReadFile(path))(t))
		var mu sync.Mutex
		refused := map[string]bool{}
		policy := must(iam.ParseIdentity([]byte(shownPolicy.FindStringSubmatch(page)[1])))(t)
		a.box.AWS.SetIdentityPolicy(administrator, func(action, resource string) bool {
			allowed := policy.Evaluate(iam.Request{Action: action, Resource: resource}) == iam.Allow
			if !allowed {
				mu.Lock()
				defer mu.Unlock()
				refused[action+" on "+resource] = true
			}
			return allowed
		})
		n := 0
		want := shownConsole.ReplaceAllStringFunc(page, func(block string) string {
			n++
			line := shownConsole.FindStringSubmatch(block)[1]
			code, out, errs := a.rotate(strings.Fields(line)[1:]...)
			if code != exitOK {
				t.Errorf("%s: exit code %d: %s%s", line, code, out, errs)
			}
			a.awaitQuiet()
			text := shownPass.ReplaceAllString(errs, "") + out
			text = strings.ReplaceAll(text, administrator, "olga")
			text = shownKey.ReplaceAllStringFunc(text, numbered("0a1b2c3d-0000-4000-8000-%012d"))
			text = shownLong.ReplaceAllStringFunc(text, numbered("0a1b2c3d%056d"))
			text = shownJob.ReplaceAllStringFunc(text, numbered("0a1b2c3d%016d"))
			text = shownID.ReplaceAllString(text, "20260301-mfrggzdf")
			text = shownTime.ReplaceAllString(text, "2026-03-01T10:00:00Z")
			text = shownClock.ReplaceAllString(text, "2026-03-02 10:00:00 UTC")
			expectNarrow(t, text)
			return "```console\n$ cmkeeper " + line + "\n" + text + "```"
		})
		for _, what := range slices.Sorted(maps.Keys(refused)) {
			t.Errorf("the page's policy does not allow %s", what)
		}
		if n < 4 {
			t.Errorf("the page has %d transcripts", n)
		}
		if os.Getenv("UPDATE_DOCS") != "" {
			if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
			page = want
		}
		if diff := cmp.Diff(want, page); diff != "" {
			t.Errorf("%s shows other transcripts; UPDATE_DOCS=1 go test ./internal/cli -run RotationDocument writes them:\n%s", path, diff)
		}
	})
}
