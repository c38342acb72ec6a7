package rotate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/retire"
)

// Tag is the tag of every key that a rotation creates; its value is the rotation's id.
const Tag = "cmkeeper:rotation"

const (
	specSymmetric    = string(types.KeySpecSymmetricDefault)
	originExternal   = string(types.OriginTypeExternal)
	originXKS        = string(types.OriginTypeExternalKeyStore)
	multiRegion      = string(types.MultiRegionKeyTypePrimary)
	multiReplica     = string(types.MultiRegionKeyTypeReplica)
	maxTags          = 50
	ownTags, awsTags = "cmkeeper:", "aws:"
)

// blocker says why the key cannot be replaced; "" where it can.
func (s source) blocker(c Choices) string {
	tags := 1
	for name := range s.tags {
		if copied(name) {
			tags++
		}
	}
	switch {
	case !s.key.Guarded():
		return "AWS manages key " + s.key.ARN + " and rotates it itself"
	case s.key.MultiRegion == multiReplica:
		return "key " + s.key.ARN + " is a replica: rotate its primary, " + s.key.PrimaryARN + ", in that Region"
	case !s.key.Enabled():
		return "key " + s.key.ARN + " is " + s.key.State + ": its data cannot be moved before it is enabled"
	case c.RewriteFiles && c.Envelopes != reencrypt.EnvelopesContent:
		return "--rewrite-files goes with --envelopes content: only then is looked into objects"
	case s.pending != "":
		return ""
	case s.key.Origin == originXKS && c.XksKey == "":
		return "key " + s.key.ARN + " is in an external key store: name the new key there with --xks-key-id"
	case s.key.Origin != originXKS && c.XksKey != "":
		return "--xks-key-id is for keys in an external key store, and key " + s.key.ARN + " is not"
	case tags > maxTags:
		return fmt.Sprintf("the new key could not have the tag %s beside the %d tags of key %s: KMS allows %d", Tag, tags-1, s.key.ARN, maxTags)
	}
	return ""
}

// copied reports whether the new key gets a tag of the old one. AWS's own cannot be
// copied, and cmkeeper's speak of the old key alone: an approval of its deletion, say.
func copied(tag string) bool {
	return !strings.HasPrefix(tag, awsTags) && !strings.HasPrefix(tag, ownTags)
}

// newKey is the request that creates the successor of the key.
func (s source) newKey(id string, c Choices) (*kms.CreateKeyInput, error) {
	policy, err := creationPolicy(s.policy, s.key.ID)
	if err != nil {
		return nil, fmt.Errorf("copy the policy of key %s: %w", s.key.ARN, err)
	}
	in := &kms.CreateKeyInput{
		Description: &s.key.Description, KeySpec: types.KeySpec(s.key.Spec), KeyUsage: types.KeyUsageType(s.key.Usage),
		Origin: types.OriginType(s.key.Origin), Policy: &policy,
		Tags: []types.Tag{{TagKey: aws.String(Tag), TagValue: &id}},
	}
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		if copied(name) {
			in.Tags = append(in.Tags, types.Tag{TagKey: &name, TagValue: aws.String(s.tags[name])})
		}
	}
	if s.key.MultiRegion == multiRegion {
		in.MultiRegion = aws.Bool(true)
	}
	if s.key.CustomKeyStoreID != "" {
		in.CustomKeyStoreId = &s.key.CustomKeyStoreID
	}
	if c.XksKey != "" {
		in.XksKeyId = &c.XksKey
	}
	return in, nil
}

// finalPolicy is the old key's policy with the new key in its place. An id of a key
// occurs in no policy by chance.
func finalPolicy(policy, oldID, newID string) string { return strings.ReplaceAll(policy, oldID, newID) }

// creationPolicy is the policy that the new key is created with, before its id is known:
// statements about the old key are about "*", which in a key policy is the key itself.
// Until the final policy is put, conditions still name the old key.
func creationPolicy(policy, oldID string) (string, error) {
	if !strings.Contains(policy, oldID) {
		return policy, nil
	}
	var doc map[string]any
	d := json.NewDecoder(strings.NewReader(policy))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return "", err
	}
	statements, ok := doc["Statement"].([]any)
	if !ok {
		statements = []any{doc["Statement"]}
	}
	for _, s := range statements {
		if s, ok := s.(map[string]any); ok {
			for _, name := range []string{"Resource", "NotResource"} {
				if v, ok := s[name]; ok {
					s[name] = ownResource(v, oldID)
				}
			}
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		return "", err
	}
	return strings.TrimSpace(b.String()), nil
}

// ownResource replaces what names the old key in the value of a Resource or NotResource.
func ownResource(v any, oldID string) any {
	switch v := v.(type) {
	case string:
		if strings.Contains(v, oldID) {
			return "*"
		}
	case []any:
		for i := range v {
			v[i] = ownResource(v[i], oldID)
		}
	}
	return v
}

// worst returns the findings that keep a policy from being copied.
func worst(all []finding.Finding) (bad []finding.Finding) {
	for _, f := range all {
		if f.Severity.AtLeast(finding.High) {
			bad = append(bad, f)
		}
	}
	return bad
}

// createKey creates the new key, where that is not done, and makes it like the old one.
func (w *work) createKey(ctx context.Context) (string, error) {
	old, err := w.Facts.Key(ctx, w.Old)
	if err != nil {
		return "", permission(err, "kms:DescribeKey")
	}
	s, err := w.sourceKey(ctx, old)
	if err != nil {
		return "", err
	}
	if why := s.blocker(w.Options); why != "" {
		return "", errors.New(why)
	}
	if err := w.judge(s); err != nil {
		return "", err
	}
	if w.New == "" && !w.Creating.IsZero() {
		if err := w.findCreated(ctx); err != nil {
			return "", err
		}
	}
	if w.New == "" {
		if err := s.has(w.Aliases); err != nil { // somebody has moved one since the rotation began
			return "", err
		}
		if err := w.create(ctx, s); err != nil {
			return "", err
		}
	}
	if err := w.awaitNew(ctx); err != nil {
		return "", err
	}
	policy := finalPolicy(s.policy, s.key.ID, arn.KeyID(w.New))
	switch live, err := w.Facts.Policy(ctx, w.New); {
	case err != nil:
		return "", permission(err, "kms:GetKeyPolicy")
	case policy != s.policy && !sameJSON(live, policy):
		if _, err := w.KMS.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &w.New, PolicyName: aws.String("default"), Policy: &policy}); err != nil {
			return "", permission(fmt.Errorf("put the policy of the new key: %w", err), "kms:PutKeyPolicy")
		}
	}
	if err := w.copyRotation(ctx, s.rotation); err != nil {
		return "", err
	}
	created, err := w.Facts.Key(ctx, w.New)
	switch {
	case err != nil:
		return "", err
	case created.State == string(types.KeyStatePendingImport):
		return "", w.wait(ctx, time.Time{}, "The new key has no material yet. Import it (aws kms get-parameters-for-import, aws kms import-key-material), and then resume.")
	case !created.Enabled():
		return "", fmt.Errorf("the new key %s is %s", w.New, created.State)
	}
	return "The new key is enabled, with the old key's policy, tags and settings.", nil
}

// awaitNew waits until KMS shows the new key, which may take a while.
func (w *work) awaitNew(ctx context.Context) error {
	for n := 0; ; n++ {
		_, err := w.Facts.Key(ctx, w.New)
		if !errors.Is(err, inventory.ErrNotFound) || n == 20 {
			return permission(err, "kms:DescribeKey")
		}
		if err := sleep(ctx, 3*time.Second); err != nil {
			return err
		}
	}
}

// judge judges the policy that the new key will have.
func (w *work) judge(s source) error {
	if w.Judge == nil || w.Options.AcceptPolicy {
		return nil
	}
	all, err := w.Judge(s.key.ARN, s.policy)
	if err != nil {
		return fmt.Errorf("judge the policy of key %s: %w", s.key.ARN, err)
	}
	bad := worst(all)
	if len(bad) == 0 {
		return nil
	}
	var ids []string
	for _, f := range bad {
		ids = append(ids, f.ID.String())
	}
	return fmt.Errorf("the policy of key %s has findings that its successor would inherit: %s. Mend the policy first (cmkeeper policy check), or rotate with --accept-policy", s.key.ARN, strings.Join(ids, ", "))
}

// create creates the new key. That it is about to is recorded first, since an answer can
// be lost: the SDK must not repeat the call either.
func (w *work) create(ctx context.Context, s source) error {
	in, err := s.newKey(w.ID, w.Options)
	if err != nil {
		return err
	}
	if err := w.save(ctx, func(rec *Record) { rec.Creating = w.now() }); err != nil {
		return err
	}
	out, err := w.KMS.CreateKey(ctx, in, func(o *kms.Options) { o.RetryMaxAttempts = 1 })
	if err != nil {
		err = permission(fmt.Errorf("create the new key: %w", err), "kms:CreateKey and kms:TagResource")
		if _, ok := errors.AsType[*types.MalformedPolicyDocumentException](err); ok { // which KMS says of a policy that would lock its maker out, too
			err = fmt.Errorf("%w; KMS wants the policy that is copied, or IAM where it leaves that to IAM, to allow you kms:PutKeyPolicy", err)
		}
		if retire.Refused(err) { // there is no key
			err = errors.Join(err, w.save(ctx, func(rec *Record) { rec.Creating = time.Time{} }))
		}
		return err
	}
	created := aws.ToString(out.KeyMetadata.Arn)
	w.say("Created key %s.", arn.KeyID(created))
	if err := w.save(ctx, func(rec *Record) { rec.New, rec.Creating = created, time.Time{} }); err != nil {
		return fmt.Errorf("key %s was created, and that was not recorded; who resumes finds it by its tag %s: %w", created, Tag, err)
	}
	return nil
}

// findCreated finds the key of a CreateKey whose answer was lost, by its tag, and records
// that there is none only when KMS would show it.
func (w *work) findCreated(ctx context.Context) error {
	w.say("A CreateKey was interrupted at %s. Looking for its key.", clock(w.Creating))
	for {
		now := w.Store.Now()
		found, err := w.tagged(ctx)
		if err != nil {
			return err
		}
		if len(found) > 0 || now.Sub(w.Creating) > settles {
			return w.save(ctx, func(rec *Record) {
				rec.Creating = time.Time{}
				if len(found) > 0 {
					rec.New = found[0]
				}
			})
		}
		if err := sleep(ctx, 20*time.Second); err != nil {
			return err
		}
	}
}

// tagged returns the ARNs of the keys with this rotation's tag, the oldest first. It is
// an error where a key that may be one cannot be looked at.
func (w *work) tagged(ctx context.Context) ([]string, error) {
	arns, err := w.Facts.Keys(ctx)
	if err != nil {
		return nil, permission(err, "kms:ListKeys")
	}
	var found []inventory.Key
	var unread []string
	for _, keyARN := range arns {
		key, err := w.Facts.Key(ctx, keyARN)
		if err == nil && (!key.Guarded() || key.Created.Before(w.Creating.Add(-settles))) { // our clock or KMS's may be off
			continue
		}
		var tags map[string]string
		if err == nil {
			tags, err = w.Facts.Tags(ctx, keyARN)
		}
		switch {
		case errors.Is(err, inventory.ErrNotFound):
		case errors.Is(err, inventory.ErrAccessDenied):
			unread = append(unread, keyARN)
		case err != nil:
			return nil, err
		case tags[Tag] == w.ID:
			found = append(found, key)
		}
	}
	if len(found) == 0 && len(unread) > 0 {
		return nil, fmt.Errorf("one of these keys may be the one that this rotation has created, and its tags cannot be read, which takes kms:DescribeKey and kms:ListResourceTags: %s", strings.Join(unread, ", "))
	}
	slices.SortFunc(found, func(a, b inventory.Key) int { return a.Created.Compare(b.Created) })
	var names []string
	for _, k := range found {
		names = append(names, k.ARN)
	}
	return names, nil
}

// copyRotation switches the new key's automatic rotation on as the old one's.
func (w *work) copyRotation(ctx context.Context, want inventory.Rotation) error {
	if !want.Enabled {
		return nil
	}
	live, err := w.Facts.Rotation(ctx, w.New)
	if err != nil {
		return permission(err, "kms:GetKeyRotationStatus")
	}
	if live.Enabled && live.Period == want.Period {
		return nil
	}
	in := &kms.EnableKeyRotationInput{KeyId: &w.New}
	if want.Period > 0 {
		in.RotationPeriodInDays = aws.Int32(int32(want.Period))
	}
	if _, err := w.KMS.EnableKeyRotation(ctx, in); err != nil {
		return permission(fmt.Errorf("switch rotation of the new key on: %w", err), "kms:EnableKeyRotation")
	}
	return nil
}

// sameJSON reports whether two documents differ at most in how they are written.
func sameJSON(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return a == b
	}
	p, errP := json.Marshal(x)
	q, errQ := json.Marshal(y)
	return errP == nil && errQ == nil && bytes.Equal(p, q)
}

func isDenied(err error) bool {
	e, ok := errors.AsType[smithy.APIError](err)
	return ok && (e.ErrorCode() == "AccessDeniedException" || e.ErrorCode() == "AccessDenied")
}

func clock(t time.Time) string { return t.UTC().Format(time.DateTime + " MST") }
