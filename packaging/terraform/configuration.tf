# The bucket that tells perch what to be, and the secrets that let it in. Terraform makes the places; what is in them is
# put there by the commands among the outputs, so that a change of either is no change of infrastructure, and no secret
# is ever in Terraform's state.

locals {
  production = var.environment == "production"

  # The host with the Discord session, and those with HTTP alone: each reads its own object and its own secret, so that
  # a host in front of the internet can't read the bot's token.
  kinds = var.web == null ? toset(["bot"]) : toset(["bot", "web"])
  keys  = { bot = "perch.toml", web = "web.toml" }

  # Where the hosts take the package from, and what it must be. An uploaded one is named with its version: the template of
  # hosts that went before names what was there then, and S3 still has it when the group goes back to that template.
  uploaded = try(var.package.file, null) != null
  # What packages of either family call the machine.
  machines  = { deb = { x86_64 = "amd64", arm64 = "arm64" }, rpm = { x86_64 = "x86_64", arm64 = "aarch64" } }
  machine   = local.machines[try(endswith(split("?", var.package.url)[0], ".deb"), false) ? "deb" : "rpm"][var.architecture]
  elsewhere = try(replace(var.package.url, "{architecture}", local.machine), "")
  package = {
    url    = local.uploaded ? "s3://${aws_s3_bucket.configuration.id}/${local.package_key}?versionId=${aws_s3_object.package[0].version_id}" : local.elsewhere
    sha256 = local.uploaded ? filesha256(var.package.file) : try(var.package.sha256, "")
  }
  # The same for each, as Terraform takes an object whose key is another away, with all of its versions.
  package_key = local.uploaded ? "packages/perch.${reverse(split(".", var.package.file))[0]}" : ""
  package_arn = local.uploaded ? "${aws_s3_bucket.configuration.arn}/${local.package_key}" : "arn:${data.aws_partition.current.partition}:s3:::${split("?", trimprefix(local.elsewhere, "s3://"))[0]}"
}

resource "aws_s3_bucket" "configuration" {
  # checkov:skip=CKV_AWS_18: one object that one role reads; CloudTrail says who changed it, an access log would say who polls.
  # checkov:skip=CKV_AWS_144: the configuration is also where it was written; a second region would be one more thing to pay.
  # checkov:skip=CKV2_AWS_62: perch asks for the object itself; nothing listens for events.
  # checkov:skip=CKV_AWS_145: encrypted with AWS's key unless one is given; nothing in the object is secret.
  bucket        = var.bucket
  bucket_prefix = var.bucket == null ? "${var.name}-" : null

  # What is thrown away with the installation in development is kept in production: a bucket with objects isn't destroyed.
  force_destroy = !local.production
}

resource "aws_s3_bucket_policy" "configuration" {
  bucket = aws_s3_bucket.configuration.id
  policy = templatefile("${path.module}/policies/bucket.json.tftpl", { bucket_arn = aws_s3_bucket.configuration.arn })

  # S3 refuses two changes of one bucket's access at a time.
  depends_on = [aws_s3_bucket_public_access_block.configuration]
}

resource "aws_s3_bucket_public_access_block" "configuration" {
  bucket                  = aws_s3_bucket.configuration.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "configuration" {
  bucket = aws_s3_bucket.configuration.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "configuration" {
  bucket = aws_s3_bucket.configuration.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "configuration" {
  bucket = aws_s3_bucket.configuration.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "configuration" {
  bucket = aws_s3_bucket.configuration.id

  # A year of versions to go back to, and the newest of them for good.
  rule {
    id     = "older-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days           = 365
      newer_noncurrent_versions = var.configuration_versions
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  depends_on = [aws_s3_bucket_versioning.configuration]
}

resource "aws_secretsmanager_secret" "perch" {
  # checkov:skip=CKV_AWS_149: encrypted with AWS's key for this purpose unless one is given.
  # checkov:skip=CKV2_AWS_57: Discord has no way to rotate a token by program; perch takes a new one over when somebody puts it there.
  for_each = local.kinds

  name                    = "${var.name}-${each.key}"
  description             = each.key == "bot" ? "Tokens of the perch host that holds the Discord session" : "Keys of the perch hosts behind the load balancer"
  kms_key_id              = var.kms_key_arn
  recovery_window_in_days = local.production ? 30 : 0
}

resource "aws_s3_object" "package" {
  count = local.uploaded ? 1 : 0

  # checkov:skip=CKV_AWS_186: encrypted as the bucket is.
  bucket      = aws_s3_bucket.configuration.id
  key         = local.package_key
  source      = var.package.file
  source_hash = local.package.sha256

  depends_on = [aws_s3_bucket_versioning.configuration, aws_s3_bucket_server_side_encryption_configuration.configuration]
}
