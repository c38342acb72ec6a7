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
					f.properties += fmt.Sprintf(" latest=%t", latest)
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

// read records one version.
func (st *stage) read(ctx context.Context, v version) (facts, error) {
	out, err := st.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &v.bucket, Key: &v.key, VersionId: &v.id})
	if err != nil {
		return facts{}, err
	}
	body, err := io.ReadAll(out.Body)
	_ = out.Body.Close()
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
	var metadata []string
	for _, name := range slices.Sorted(maps.Keys(out.Metadata)) {
		metadata = append(metadata, fmt.Sprintf("%q=%q", name, out.Metadata[name]))
	}
	return facts{
		key:  aws.ToString(out.SSEKMSKeyId),
		body: sha256.Sum256(body),
		properties: fmt.Sprintf("etag=%s modified=%s sse=%s bucketkey=%t class=%s type=%q encoding=%q disposition=%q language=%q cache=%q expires=%q redirect=%q lock=%s/%s/%s metadata=%s tags=%s",
			aws.ToString(out.ETag), aws.ToTime(out.LastModified).UTC(), out.ServerSideEncryption, aws.ToBool(out.BucketKeyEnabled), out.StorageClass,
			aws.ToString(out.ContentType), aws.ToString(out.ContentEncoding), aws.ToString(out.ContentDisposition), aws.ToString(out.ContentLanguage),
			aws.ToString(out.CacheControl), aws.ToString(out.ExpiresString), aws.ToString(out.WebsiteRedirectLocation),
			out.ObjectLockMode, aws.ToTime(out.ObjectLockRetainUntilDate).UTC(), out.ObjectLockLegalHoldStatus, metadata, tags),
	}, nil
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
	for _, check := range []func(context.Context) error{v.checkKeys, v.checkObjects, v.checkReplacement, v.checkUsage, v.checkReadable, v.checkAccess} {
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
		want := was.key
		if was.key == v.stage.oldKey && !locked {
			want = v.stage.newKey
		}
		switch {
		case !there:
			v.problem("%s is gone", at)
		case is.body != was.body:
			v.problem("%s has other bytes", at)
		case is.properties != was.properties:
			v.problem("%s was %s and is %s", at, was.properties, is.properties)
		case is.key != want:
			v.problem("%s is under %s; want %s", at, is.key, want)
		case locked && !reported[at]:
			v.problem("%s is locked, and no report names it", at)
		case !locked && reported[at]:
			v.problem("%s is reported as not moved", at)
		case locked:
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
	for at := range after {
		if _, was := v.before[at]; !was {
			counts.Failed++
			v.problem("%s was not there before", at)
		}
	}
	if counts.Moved == 0 {
		v.problem("no object version had to move")
	}
	return nil
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
		out, err := v.stage.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
		if err != nil {
			return nil, fmt.Errorf("read report %s: %w", address, err)
		}
		body, err := io.ReadAll(out.Body)
		_ = out.Body.Close()
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
				if apiErr, ok := errors.AsType[smithy.APIError](err); refused && (!ok || !strings.HasPrefix(apiErr.ErrorCode(), "KMS.")) {
					return err
				}
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
