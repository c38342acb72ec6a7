package s3

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// maxObjectTags is how many tags an object may have; a bucket may have 50.
const maxObjectTags = 10

// isTagText reports whether s has only what keys and values of tags are made of.
func isTagText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.In(r, unicode.L, unicode.Z, unicode.N) && !strings.ContainsRune("_.:/=+-@", r)
	})
}

// checkTags says whether a set of tags keeps S3's rules.
func checkTags(tags []tag, limit int) error {
	if len(tags) > limit {
		return wire.Errorf(400, "BadRequest", "Object tags cannot be greater than %d", limit)
	}
	seen := map[string]bool{}
	for _, t := range tags {
		switch {
		case t.Key == "" || utf8.RuneCountInString(t.Key) > 128 || !isTagText(t.Key):
			return wire.Errorf(400, "InvalidTag", "The TagKey you have provided is invalid")
		case utf8.RuneCountInString(t.Value) > 256 || !isTagText(t.Value):
			return wire.Errorf(400, "InvalidTag", "The TagValue you have provided is invalid")
		case strings.HasPrefix(t.Key, "aws:"):
			return wire.Errorf(400, "InvalidTag", "System tags cannot be added/updated by requester")
		case seen[t.Key]:
			return wire.Errorf(400, "InvalidTag", "Cannot provide multiple Tags with the same key")
		}
		seen[t.Key] = true
	}
	return nil
}

// taggingHeader reads the tags of a write: x-amz-tagging, encoded like a query.
func (c *call) taggingHeader() ([]tag, error) {
	header := c.header("X-Amz-Tagging")
	if header == "" {
		return nil, nil
	}
	if err := c.authorize("s3:PutObjectTagging", c.name, c.key); err != nil {
		return nil, err
	}
	values, err := url.ParseQuery(header)
	if err != nil {
		return nil, invalidArgument("x-amz-tagging", header, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.")
	}
	tags := make([]tag, 0, len(values))
	for key, v := range values {
		if len(v) != 1 {
			return nil, invalidArgument("x-amz-tagging", header, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.")
		}
		tags = append(tags, tag{key, v[0]})
	}
	slices.SortFunc(tags, func(a, b tag) int { return strings.Compare(a.Key, b.Key) })
	return tags, checkTags(tags, maxObjectTags)
}

func (c *call) writeTags(tags []tag) error {
	d := newDocument("Tagging")
	d.begin("TagSet")
	for _, t := range tags {
		d.begin("Tag")
		d.element("Key", t.Key)
		d.element("Value", t.Value)
		d.end("Tag")
	}
	d.end("TagSet")
	d.end("Tagging")
	return c.xml(d)
}

func (c *call) readTags(limit int) ([]tag, error) {
	var in struct {
		Tags []tag `xml:"TagSet>Tag"`
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	return in.Tags, checkTags(in.Tags, limit)
}

func (s *Service) getObjectTagging(c *call) error {
	v, err := c.version()
	if err != nil {
		return err
	}
	c.setVersion(v)
	return c.writeTags(v.tags)
}

func (s *Service) putObjectTagging(c *call) error {
	tags, err := c.readTags(maxObjectTags)
	if err != nil {
		return err
	}
	return c.setTags(tags, http.StatusOK)
}

func (s *Service) deleteObjectTagging(c *call) error { return c.setTags(nil, http.StatusNoContent) }

func (c *call) setTags(tags []tag, status int) error {
	if _, err := c.version(); err != nil {
		return err
	}
	v, err := c.bucket.change(c.key, c.query.Get("versionId"), func(v *version) error {
		v.tags = tags
		return nil
	})
	if err != nil {
		return err
	}
	c.setVersion(v)
	return c.empty(status)
}

func (s *Service) getBucketTagging(c *call) error {
	c.bucket.mu.RLock()
	tags := c.bucket.tags
	c.bucket.mu.RUnlock()
	if len(tags) == 0 {
		return wire.Errorf(404, "NoSuchTagSet", "The TagSet does not exist")
	}
	return c.writeTags(tags)
}

func (s *Service) putBucketTagging(c *call) error {
	tags, err := c.readTags(50)
	if err != nil {
		return err
	}
	c.bucket.mu.Lock()
	c.bucket.tags = tags
	c.bucket.mu.Unlock()
	return c.empty(http.StatusNoContent)
}

func (s *Service) deleteBucketTagging(c *call) error {
	c.bucket.mu.Lock()
	c.bucket.tags = nil
	c.bucket.mu.Unlock()
	return c.empty(http.StatusNoContent)
}
