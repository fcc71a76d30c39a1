# Machine images with perch: Debian 12 and Amazon Linux 2023.
#   packer init packaging/ami && packer build -var region=eu-central-1 packaging/ami
# With -only='perch.amazon-ebs.debian' or -only='perch.amazon-ebs.amazon' one of them.

variable "region" {
  type        = string
  description = "The region to build in, and where the images are."
}

variable "deb" {
  type        = string
  description = "The package for Debian; empty: the one that was built for the architecture."
  default     = ""
}

variable "rpm" {
  type        = string
  description = "The package for Amazon Linux; empty: the one that was built for the architecture."
  default     = ""
}

variable "architecture" {
  type        = string
  description = "The machine that the packages are for: amd64 or arm64."
  default     = "amd64"

  validation {
    condition     = var.architecture == "amd64" || var.architecture == "arm64"
    error_message = "The architecture is amd64 or arm64."
  }
}

variable "subnet_id" {
  type        = string
  description = "Where the building instance is; empty: the default network."
  default     = ""
}

variable "kms_key_id" {
  type        = string
  description = "The key that the images are encrypted with; empty: the account's own key for EBS."
  default     = ""
}

locals {
  machine       = var.architecture == "arm64" ? "aarch64" : "x86_64"
  deb           = var.deb != "" ? var.deb : "target/packages/perch_0.1.0_${var.architecture}.deb"
  rpm           = var.rpm != "" ? var.rpm : "target/packages/perch-0.1.0-1.${local.machine}.rpm"
  instance_type = var.architecture == "arm64" ? "t4g.small" : "t3.small"
  moment        = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "debian" {
  ami_name                  = "perch-debian-12-${var.architecture}-${local.moment}"
  ami_description           = "Debian 12 with perch, which begins when user data names its configuration"
  region                    = var.region
  subnet_id                 = var.subnet_id
  instance_type             = local.instance_type
  ssh_username              = "admin"
  ssh_clear_authorized_keys = true
  encrypt_boot              = true
  kms_key_id                = var.kms_key_id

  source_ami_filter {
    # Debian's own account: https://wiki.debian.org/Cloud/AmazonEC2Image
    owners      = ["136693071363"]
    most_recent = true
    filters = {
      name                = "debian-12-${var.architecture}-*"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 8
    volume_type           = "gp3"
    throughput            = 125
    iops                  = 3000
    delete_on_termination = true
  }

  # Session tokens alone, while it is built and on every instance of it. (Packer 1.6 knows neither.)
  imds_support = "v2.0"
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  tags = {
    Name   = "perch"
    Source = "{{ .SourceAMIName }}"
  }
}

source "amazon-ebs" "amazon" {
  ami_name                  = "perch-al2023-${var.architecture}-${local.moment}"
  ami_description           = "Amazon Linux 2023 with perch, which begins when user data names its configuration"
  region                    = var.region
  subnet_id                 = var.subnet_id
  instance_type             = local.instance_type
  ssh_username              = "ec2-user"
  ssh_clear_authorized_keys = true
  encrypt_boot              = true
  kms_key_id                = var.kms_key_id

  source_ami_filter {
    owners      = ["amazon"]
    most_recent = true
    filters = {
      name                = "al2023-ami-2023.*-kernel-*-${var.architecture == "arm64" ? "arm64" : "x86_64"}"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_size           = 8
    volume_type           = "gp3"
    throughput            = 125
    iops                  = 3000
    delete_on_termination = true
  }

  # Session tokens alone, while it is built and on every instance of it. (Packer 1.6 knows neither.)
  imds_support = "v2.0"
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  tags = {
    Name   = "perch"
    Source = "{{ .SourceAMIName }}"
  }
}

build {
  name    = "perch"
  sources = ["source.amazon-ebs.debian", "source.amazon-ebs.amazon"]

  # The image's own first boot is over before anything is changed.
  provisioner "shell" {
    inline = ["cloud-init status --wait"]
  }

  provisioner "file" {
    only        = ["amazon-ebs.debian"]
    source      = local.deb
    destination = "/tmp/perch.deb"
  }

  provisioner "file" {
    only        = ["amazon-ebs.amazon"]
    source      = local.rpm
    destination = "/tmp/perch.rpm"
  }

  provisioner "shell" {
    only            = ["amazon-ebs.debian"]
    execute_command = "sudo env DEBIAN_FRONTEND=noninteractive {{ .Vars }} sh -e {{ .Path }}"
    inline          = ["apt-get -qq update", "apt-get -qq -y dist-upgrade", "apt-get -qq -y install curl"]
  }

  provisioner "shell" {
    only            = ["amazon-ebs.amazon"]
    execute_command = "sudo env {{ .Vars }} sh -e {{ .Path }}"
    inline          = ["dnf --quiet --assumeyes --releasever=latest upgrade"]
  }

  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} sh {{ .Path }}"
    scripts         = ["${path.root}/install.sh", "${path.root}/clean.sh"]
  }
}
