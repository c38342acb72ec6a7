package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"
)

// version names one version of one object.
type version struct{ bucket, key, id string }

func (v version) String() string { return fmt.Sprintf("%s/%q version %s", v.bucket, v.key, v.id) }

// facts are the key of an object version, and everything that re-encryption must not
// change.
type facts struct {
	key        string
	body       [sha256.Size]byte
	properties string // every header, metadata, tag, lock and date, rendered in a fixed order
	latest     bool
	// wrapped is the data key that the application has stored with it, and lasting is all
	// else but what a new wrapping changes: ETag and date.
	wrapped string
	lasting *facts
}

// snapshot records every version of every object in the buckets.
func (st *stage) snapshot(ctx context.Context, buckets []string) (map[version]facts, error) {
	var (
		mu  sync.Mutex
		all = map[version]facts{}
	)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, bucket := range buckets {
		pages := s3.NewListObjectVersionsPaginator(st.s3, &s3.ListObjectVersionsInput{Bucket: &bucket})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, errors.Join(err, g.Wait())
			}
			for _, item := range page.Versions {
				v := version{bucket, aws.ToString(item.Key), aws.ToString(item.VersionId)}
				latest := aws.ToBool(item.IsLatest)
				g.Go(func() error {
					f, err := st.read(ctx, v)
					if err != nil {
						return fmt.Errorf("%s: %w", v, err)
					}
					f.latest = latest
					mu.Lock()
					defer mu.Unlock()
					all[v] = f
					return nil
				})
			}
		}
	}
	return all, g.Wait()
}

// get returns a version, or the current one where it has no id.
func (st *stage) get(ctx context.Context, v version) (*s3.GetObjectOutput, []byte, error) {
	in := s3.GetObjectInput{Bucket: &v.bucket, Key: &v.key}
	if v.id != "" {
		in.VersionId = &v.id
	}
	out, err := st.s3.GetObject(ctx, &in)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(out.Body)
	_ = out.Body.Close()
	return out, body, err
}

// read records one version.
func (st *stage) read(ctx context.Context, v version) (facts, error) {
	out, body, err := st.get(ctx, v)
	if err != nil {
		return facts{}, err
	}
	var tags []string
	if aws.ToInt32(out.TagCount) > 0 {
		tagging, err := st.s3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &v.bucket, Key: &v.key, VersionId: &v.id})
		if err != nil {
			return facts{}, err
		}
		for _, t := range tagging.TagSet {
			tags = append(tags, fmt.Sprintf("%q=%q", aws.ToString(t.Key), aws.ToString(t.Value)))
		}
		slices.Sort(tags)
	}
	render := func(body []byte, written string, all map[string]string) facts {
		var metadata []string
		for _, name := range slices.Sorted(maps.Keys(all)) {
			metadata = append(metadata, fmt.Sprintf("%q=%q", name, all[name]))
		}
		return facts{
			key:  aws.ToString(out.SSEKMSKeyId),
			body: sha256.Sum256(body),
			properties: fmt.Sprintf("%s sse=%s bucketkey=%t class=%s type=%q encoding=%q disposition=%q language=%q cache=%q expires=%q redirect=%q lock=%s/%s/%s metadata=%s tags=%s",
				written, out.ServerSideEncryption, aws.ToBool(out.BucketKeyEnabled), out.StorageClass,
				aws.ToString(out.ContentType), aws.ToString(out.ContentEncoding), aws.ToString(out.ContentDisposition), aws.ToString(out.ContentLanguage),
				aws.ToString(out.CacheControl), aws.ToString(out.ExpiresString), aws.ToString(out.WebsiteRedirectLocation),
				out.ObjectLockMode, aws.ToTime(out.ObjectLockRetainUntilDate).UTC(), out.ObjectLockLegalHoldStatus, metadata, tags),
		}
	}
	f := render(body, fmt.Sprintf("etag=%s modified=%s", aws.ToString(out.ETag), aws.ToTime(out.LastModified).UTC()), out.Metadata)
	if _, sealed := st.secretOf(v); sealed {
		wrapped, rest, others := split(body, out.Metadata)
		lasting := render(rest, "but for its data key", others)
		f.wrapped, f.lasting = wrapped, &lasting
	}
	return f, nil
}

func countKey(all map[version]facts, key string) (n int) {
	for _, f := range all {
		if f.key == key {
			n++
		}
	}
	return n
}

// verifier compares what the worker reported with live state. It shares no code with
// re-encryption.
type verifier struct {
	stage  *stage
	before map[version]facts
	alerts []notice
	second *secondAct
	// command runs a command line as the operator, and returns what it prints.
	command func(ctx context.Context, args ...string) (string, error)
	review  review

	summary Summary
}

func (v *verifier) problem(format string, args ...any) {
	const enough = 20 // a failed run may have thousands
	if len(v.summary.Problems) < enough {
		v.summary.Problems = append(v.summary.Problems, fmt.Sprintf(format, args...))
	}
}

// verify reads everything back. The summary is OK only if there are no problems.
func (v *verifier) verify(ctx context.Context) (Summary, error) {
	v.checkAlerts()
	for _, check := range []func(context.Context) error{v.checkKeys, v.checkObjects, v.checkReplacement, v.checkUsage, v.checkReadable, v.checkSealed, v.checkAccess} {
		if err := check(ctx); err != nil {
			return v.summary, err
		}
	}
	v.summary.OK = len(v.summary.Problems) == 0
	return v.summary, nil
}

// missingAlerts names the expected alerts about keys that are not in all.
func missingAlerts(st *stage, all []notice) []string {
	var missing []string
	for _, want := range []struct {
		what, kind, event, key, finding, severity string
	}{
		{"the rotation that was switched off", "rotation", "DisableKeyRotation", st.rotatingKey, "", ""},
		{"the public key policy, with its finding", "policy", "PutKeyPolicy", st.policyKey, "public-principal", ""},
		{"the scheduled deletion", "deletion", "ScheduleKeyDeletion", st.doomedKey, "", "critical"},
		{"the moved alias", "alias", "UpdateAlias", "", "", ""},
	} {
		if !slices.ContainsFunc(all, func(n notice) bool {
			return n.about(want.kind, want.key) && n.Event == want.event && (want.severity == "" || n.Severity == want.severity) &&
				(want.finding == "" || slices.ContainsFunc(n.Findings, func(f struct {
					ID string `json:"id"`
				}) bool {
					return f.ID == want.finding
				}))
		}) {
			missing = append(missing, want.what)
		}
	}
	return missing
}

func (v *verifier) checkAlerts() {
	v.summary.Alerts.ByKind = map[string]int{}
	for _, n := range v.alerts {
		v.summary.Alerts.Total++
		v.summary.Alerts.ByKind[n.Kind]++
		if n.Schema != "cmkeeper.alert.v1" {
			v.problem("an alert has the schema %q", n.Schema)
		}
	}
	for _, what := range missingAlerts(v.stage, v.alerts) {
		v.problem("no alert about %s", what)
	}
}

// checkKeys reads the three keys that the worker should have repaired.
func (v *verifier) checkKeys(ctx context.Context) error {
	client := kms.NewFromConfig(v.stage.box.Config(operator))
	rotation, err := client.GetKeyRotationStatus(ctx, &kms.GetKeyRotationStatusInput{KeyId: &v.stage.rotatingKey})
	if err != nil {
		return err
	}
	v.summary.Rotation.Reenabled = rotation.KeyRotationEnabled
	v.summary.Rotation.PeriodDays = int(aws.ToInt32(rotation.RotationPeriodInDays))
	if !rotation.KeyRotationEnabled || v.summary.Rotation.PeriodDays != rotationPeriod {
		v.problem("rotation of %s: enabled %t, every %d days; want every %d", rotatingAlias, rotation.KeyRotationEnabled, v.summary.Rotation.PeriodDays, rotationPeriod)
	}
	policy, err := client.GetKeyPolicy(ctx, &kms.GetKeyPolicyInput{KeyId: &v.stage.policyKey, PolicyName: aws.String("default")})
	if err != nil {
		return err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(aws.ToString(policy.Policy))); err != nil {
		return fmt.Errorf("policy of %s: %w", policyAlias, err)
	}
	if v.summary.Policy.Restored = compact.String() == v.stage.policy; !v.summary.Policy.Restored {
		v.problem("the policy of %s is %s; want the original policy", policyAlias, &compact)
	}
	doomed, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &v.stage.doomedKey})
	if err != nil {
		return err
	}
	if state := doomed.KeyMetadata.KeyState; state != kmstypes.KeyStateEnabled {
		v.problem("the key of %s is %s; want Enabled", doomedAlias, state)
	}
	return nil
}

// checkUsage looks for the one who breaks things in what cmkeeper usage says about the key
// whose policy was opened.
func (v *verifier) checkUsage(ctx context.Context) error {
	out, err := v.command(ctx, "usage", policyAlias, "--days", "1", "--json")
	if err != nil {
		v.problem("usage of %s: %v", policyAlias, err)
		return ctx.Err()
	}
	type row struct {
		Name  string `json:"name"`
		Calls int    `json:"calls"`
	}
	var table struct {
		Calls      int   `json:"calls"`
		Principals []row `json:"principals"`
		Operations []row `json:"operations"`
	}
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		return fmt.Errorf("usage of %s: %w", policyAlias, err)
	}
	v.summary.Usage.Calls = table.Calls
	for _, p := range table.Principals {
		if strings.HasSuffix(p.Name, ":user/"+mallory) {
			v.summary.Usage.OfMallory = p.Calls
		}
	}
	if v.summary.Usage.OfMallory == 0 || !slices.ContainsFunc(table.Operations, func(o row) bool { return o.Name == "PutKeyPolicy" }) {
		v.problem("usage of %s does not show that %s called PutKeyPolicy: %s", policyAlias, mallory, out)
	}
	return nil
}

// checkObjects compares every version with what it was.
func (v *verifier) checkObjects(ctx context.Context) error {
	reported, err := v.reported(ctx)
	if err != nil {
		return err
	}
	after, err := v.stage.snapshot(ctx, v.stage.buckets)
	if err != nil {
		return err
	}
	counts := &v.summary.Reencryption
	for at, was := range v.before {
		counts.Scanned++
		is, there := after[at]
		locked := at.key == lockedKey
		// A new wrapping of a data key is written in place, or as a new version.
		_, sealed := v.stage.secretOf(at)
		older := sealed && at.id != unversioned
		refused := locked || older
		want := was.key
		if was.key == v.stage.oldKey && !locked {
			want = v.stage.newKey
		}
		was, is := alike(at, was, is)
		switch problem := difference(at, was, is); {
		case !there:
			v.problem("%s is gone", at)
		case problem != "":
			v.problem("%s", problem)
		case is.latest != (was.latest && !older):
			v.problem("%s: that it is the current version is %t", at, is.latest)
		case is.key != want:
			v.problem("%s is under %s; want %s", at, is.key, want)
		case refused && !reported[at]:
			v.problem("%s keeps what is under the old key, and no report names it", at)
		case !refused && reported[at]:
			v.problem("%s is reported as not moved", at)
		case refused:
			counts.Refused++
			continue
		case was.key == v.stage.oldKey:
			counts.Moved++
			continue
		default:
			counts.Skipped++
			continue
		}
		counts.Failed++
	}
	for at, is := range after {
		if _, was := v.before[at]; was {
			continue
		}
		if problem := v.anew(at, is); problem != "" {
			counts.Failed++
			v.problem("%s", problem)
		}
	}
	if counts.Moved == 0 {
		v.problem("no object version had to move")
	}
	return nil
}

// alike returns of both what has to be the same. In a bucket without versions, a data key
// of the application's may have another wrapping.
func alike(at version, was, is facts) (facts, facts) {
	if was.lasting != nil && is.lasting != nil && at.id == unversioned {
		return *was.lasting, *is.lasting
	}
	return was, is
}

// difference says in what a version differs from what it was, but for its key: "" for
// nothing.
func difference(at version, was, is facts) string {
	switch {
	case is.body != was.body:
		return fmt.Sprintf("%s has other bytes", at)
	case is.properties != was.properties:
		return fmt.Sprintf("%s was %s and is %s", at, was.properties, is.properties)
	}
	return ""
}

// anew says what is wrong with a version that was not there before: "" for the one that
// has the data key of the version before it in another wrapping, and all else of it.
func (v *verifier) anew(at version, is facts) string {
	for older, was := range v.before {
		if older.bucket != at.bucket || older.key != at.key || !was.latest || !is.latest || was.lasting == nil {
			continue
		}
		if is.key != v.stage.newKey {
			return fmt.Sprintf("%s is under %s; want %s", at, is.key, v.stage.newKey)
		}
		return difference(at, *was.lasting, *is.lasting)
	}
	return fmt.Sprintf("%s was not there before", at)
}

// reported reads the rows of every report that an alert names.
func (v *verifier) reported(ctx context.Context) (map[version]bool, error) {
	rows := map[version]bool{}
	for _, n := range v.alerts {
		address := n.fact("report")
		if n.Kind != "reencryption" || address == "" {
			continue
		}
		bucket, key, ok := strings.Cut(strings.TrimPrefix(address, "s3://"), "/")
		if !ok {
			return nil, fmt.Errorf("report address %q is not s3://BUCKET/KEY", address)
		}
		_, body, err := v.stage.get(ctx, version{bucket: bucket, key: key})
		if err != nil {
			return nil, fmt.Errorf("read report %s: %w", address, err)
		}
		lines := bufio.NewScanner(bytes.NewReader(body))
		for lines.Scan() {
			var row struct{ Key, Version, Reason string }
			if err := json.Unmarshal(lines.Bytes(), &row); err != nil {
				return nil, fmt.Errorf("report %s: %w", address, err)
			}
			if row.Reason == "" {
				v.problem("report %s names %q without a reason", address, row.Key)
			}
			rows[version{n.fact("bucket"), row.Key, row.Version}] = true
		}
	}
	return rows, nil
}

// checkReadable disables the keys that nothing should need any more, and reads everything
// again: what moved must not need them, and what did not move must, or the encryption was
// a show.
func (v *verifier) checkReadable(ctx context.Context) error {
	client := kms.NewFromConfig(v.stage.box.Config(operator))
	for _, key := range []string{v.stage.oldKey, v.stage.ledgerKey, v.second.aborted.NewKey} {
		if _, err := client.DisableKey(ctx, &kms.DisableKeyInput{KeyId: &key}); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, before := range []map[version]facts{v.before, v.second.before} {
		for at, was := range before {
			g.Go(func() error {
				is, err := v.stage.read(ctx, at)
				refused := err != nil
				// That it is gone, checkObjects says, too.
				if apiErr, ok := errors.AsType[smithy.APIError](err); refused && (!ok || !strings.HasPrefix(apiErr.ErrorCode(), "KMS.") && !strings.HasPrefix(apiErr.ErrorCode(), "NoSuch")) {
					return err
				}
				was, is := alike(at, was, is)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case at.key == lockedKey && !refused:
					v.problem("%s can still be read although it was not moved and its key is disabled", at)
				case at.key != lockedKey && refused:
					v.problem("%s cannot be read after the old key was disabled: %v", at, err)
				case !refused && is.body != was.body:
					v.problem("%s has other bytes after the old key was disabled", at)
				}
				return nil
			})
		}
	}
	return g.Wait()
}
