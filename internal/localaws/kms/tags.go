package kms

import (
	"maps"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const maxTags = 50

type tag struct {
	TagKey   string `json:"TagKey"`
	TagValue string `json:"TagValue"`
}

// tag adds the tags to those of the key, or none of them.
func (k *key) tag(tags []tag) error {
	merged := maps.Clone(k.tags)
	for _, t := range tags {
		if t.TagKey == "" || len(t.TagKey) > 128 || len(t.TagValue) > 256 || strings.HasPrefix(t.TagKey, "aws:") {
			return wire.Errorf(400, "TagException", "The tag %q is not valid", t.TagKey)
		}
		merged[t.TagKey] = t.TagValue
	}
	if len(merged) > maxTags {
		return wire.Errorf(400, "LimitExceededException", "A key has at most %d tags", maxTags)
	}
	k.tags = merged
	return nil
}

// tagNew gives a key the tags of the call that makes it, which takes the
// permission to tag in an identity policy.
func (c *call) tagNew(k *key, tags []tag) error {
	if len(tags) > 0 {
		if err := c.authorizeResource("TagResource", k.arn); err != nil {
			return err
		}
	}
	return k.tag(tags)
}

func (k *key) tagList() []tag {
	tags := []tag{}
	for _, name := range slices.Sorted(maps.Keys(k.tags)) {
		tags = append(tags, tag{TagKey: name, TagValue: k.tags[name]})
	}
	return tags
}

type tagResourceInput struct {
	KeyID string `json:"KeyId"`
	Tags  []tag  `json:"Tags"`
}

func tagResource(c *call, in *tagResourceInput) error {
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return err
	}
	if err := k.notPendingDeletion(); err != nil {
		return err
	}
	return k.tag(in.Tags)
}

type untagResourceInput struct {
	KeyID   string   `json:"KeyId"`
	TagKeys []string `json:"TagKeys"`
}

func untagResource(c *call, in *untagResourceInput) error {
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return err
	}
	if err := k.notPendingDeletion(); err != nil {
		return err
	}
	for _, name := range in.TagKeys {
		delete(k.tags, name)
	}
	return nil
}

type listResourceTagsOutput struct {
	Tags []tag `json:"Tags"`
	pageOutput
}

func listResourceTags(c *call, in *listInput) (listResourceTagsOutput, error) {
	var out listResourceTagsOutput
	k, err := c.use(in.KeyID, byKey)
	if err != nil {
		return out, err
	}
	out.Tags, out.pageOutput, err = paginate(k.tagList(), func(t tag) string { return t.TagKey }, in.pageInput, 50, 50)
	return out, err
}
