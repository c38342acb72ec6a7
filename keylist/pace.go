package keylist

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"golang.org/x/time/rate"

	"github.com/cmkeeper/cmkeeper/inventory"
)

// quotas are how many requests a second KMS allows an account in a Region (KMS Developer
// Guide, "Request quotas").
const (
	quotaDescribe  = 2000
	quotaStatus    = 1000 // GetKeyPolicy and GetKeyRotationStatus, each
	quotaLists     = 500  // ListKeys and ListAliases, each
	quotaOfKey     = 100  // ListGrants, ListKeyRotations and ListResourceTags, each
	quotaLastUsage = 5
)

// Pace returns a client that sends at most this share, above 0 up to 1, of what KMS
// allows the account of each operation. Applications share these quotas; those of their
// cryptographic operations are others.
func Pace(client inventory.KMS, share float64) inventory.KMS {
	limit := func(quota int) *rate.Limiter {
		perSecond := float64(quota) * share
		return rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond)))
	}
	return &paced{
		client, limit(quotaDescribe), limit(quotaLastUsage), limit(quotaStatus), limit(quotaStatus),
		limit(quotaLists), limit(quotaOfKey), limit(quotaOfKey), limit(quotaLists), limit(quotaOfKey),
	}
}

type paced struct {
	inventory.KMS
	describe, usage, policy, status, aliases, grants, rotations, keys, tags *rate.Limiter
}

// wait waits for a turn and calls.
func wait[In, Out any](ctx context.Context, l *rate.Limiter, call func(context.Context, In, ...func(*kms.Options)) (Out, error), in In, opts []func(*kms.Options)) (Out, error) {
	if err := l.Wait(ctx); err != nil {
		var none Out
		return none, err
	}
	return call(ctx, in, opts...)
}

func (p *paced) DescribeKey(ctx context.Context, in *kms.DescribeKeyInput, o ...func(*kms.Options)) (*kms.DescribeKeyOutput, error) {
	return wait(ctx, p.describe, p.KMS.DescribeKey, in, o)
}

func (p *paced) GetKeyLastUsage(ctx context.Context, in *kms.GetKeyLastUsageInput, o ...func(*kms.Options)) (*kms.GetKeyLastUsageOutput, error) {
	return wait(ctx, p.usage, p.KMS.GetKeyLastUsage, in, o)
}

func (p *paced) GetKeyPolicy(ctx context.Context, in *kms.GetKeyPolicyInput, o ...func(*kms.Options)) (*kms.GetKeyPolicyOutput, error) {
	return wait(ctx, p.policy, p.KMS.GetKeyPolicy, in, o)
}

func (p *paced) GetKeyRotationStatus(ctx context.Context, in *kms.GetKeyRotationStatusInput, o ...func(*kms.Options)) (*kms.GetKeyRotationStatusOutput, error) {
	return wait(ctx, p.status, p.KMS.GetKeyRotationStatus, in, o)
}

func (p *paced) ListAliases(ctx context.Context, in *kms.ListAliasesInput, o ...func(*kms.Options)) (*kms.ListAliasesOutput, error) {
	return wait(ctx, p.aliases, p.KMS.ListAliases, in, o)
}

func (p *paced) ListGrants(ctx context.Context, in *kms.ListGrantsInput, o ...func(*kms.Options)) (*kms.ListGrantsOutput, error) {
	return wait(ctx, p.grants, p.KMS.ListGrants, in, o)
}

func (p *paced) ListKeyRotations(ctx context.Context, in *kms.ListKeyRotationsInput, o ...func(*kms.Options)) (*kms.ListKeyRotationsOutput, error) {
	return wait(ctx, p.rotations, p.KMS.ListKeyRotations, in, o)
}

func (p *paced) ListKeys(ctx context.Context, in *kms.ListKeysInput, o ...func(*kms.Options)) (*kms.ListKeysOutput, error) {
	return wait(ctx, p.keys, p.KMS.ListKeys, in, o)
}

func (p *paced) ListResourceTags(ctx context.Context, in *kms.ListResourceTagsInput, o ...func(*kms.Options)) (*kms.ListResourceTagsOutput, error) {
	return wait(ctx, p.tags, p.KMS.ListResourceTags, in, o)
}
